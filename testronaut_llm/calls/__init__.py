"""The order of one call, from its arguments to its answer, and the calls made of calls."""
