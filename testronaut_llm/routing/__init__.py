"""The parts of a route: its options, limits and errors, the strategies that order it, and pacing."""
