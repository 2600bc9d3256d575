"""The parts of a route: its options and limits, the strategies that order it, and pacing."""
