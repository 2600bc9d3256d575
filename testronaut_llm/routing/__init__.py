"""Chooses models: the candidates of a task, their limits, and strategies that order them."""
