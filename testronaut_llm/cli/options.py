"""Options that several commands share, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from testronaut_llm.errors import ConfigError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="The llm.yaml to use (default: TESTRONAUT_LLM_CONFIG, the nearest upwards, the user's)."
    ),
]
CacheModeOption = Annotated[
    str | None,
    typer.Option("--cache", help="Answers that are kept: `use`, `refresh` (ask anew), `off`, or `only` (never ask)."),
]


def age(older_than: str) -> float:
    """Seconds of the option `--older-than`.

    Raises:
        ConfigError: it is no length of time.
    """
    from testronaut_llm.config_values import seconds

    try:
        return seconds(older_than)
    except ValueError as error:
        raise ConfigError(f"--older-than is {older_than!r}; {error}") from None
