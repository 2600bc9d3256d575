"""Chooses models: the candidates of a task, their limits, their order, and what to try after a failure."""
