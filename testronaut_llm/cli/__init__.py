"""The command line, `testronaut-llm`: the only place that prints or exits."""

from testronaut_llm.cli.app import app, main

__all__ = ["app", "main"]
