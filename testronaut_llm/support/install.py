"""The command that installs this package, for messages."""

from __future__ import annotations

SOURCE = "."
"""The argument of pip: the source folder, in which the command is run. A release writes the name on the index here."""


def install(extra: str = "") -> str:
    """Returns the command for an extra of `pyproject.toml`, such as `embedded`; without one, for a newer version."""
    where = " (in the source folder of testronaut-llm)" if SOURCE == "." else ""
    return (f"pip install '{SOURCE}[{extra}]'" if extra else f"pip install --upgrade {SOURCE}") + where
