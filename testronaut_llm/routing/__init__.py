"""Which models may answer, in which order and why, and what to try after a failure."""
