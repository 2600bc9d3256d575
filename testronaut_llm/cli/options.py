"""Options that several commands share, worded once, and the files that they name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from testronaut_llm.cli import screen
from testronaut_llm.cli.streams import read_stdin
from testronaut_llm.errors import ConfigError, InvalidRequestError
from testronaut_llm.support.text import read_utf8

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="The llm.yaml to use (default: TESTRONAUT_LLM_CONFIG, the nearest upwards, the user's)."
    ),
]
PromptFile = Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from this file.")]
CacheModeOption = Annotated[
    str | None,
    typer.Option("--cache", help="Answers that are kept: `use`, `refresh` (ask anew), `off`, or `only` (never ask)."),
]


def age(older_than: str) -> float:
    """Seconds of the option `--older-than`. Raises ConfigError: it is no length of time."""
    from testronaut_llm.config.values import seconds

    try:
        return seconds(older_than)
    except ValueError as error:
        raise ConfigError(f"--older-than is {older_than!r}; {error}") from None


def read_schema(file: Path | None) -> Any:
    """The JSON Schema in a file; None without one. Raises ConfigError: the file holds none."""
    if file is None:
        return None
    try:
        schema = json.loads(read_utf8(file))
    except ValueError as error:
        raise ConfigError(f"{file} is no JSON: {error}", file=str(file)) from None
    if not isinstance(schema, dict):
        raise ConfigError(f"{file} holds {type(schema).__name__}; expected a JSON Schema object", file=str(file))
    return schema


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """Returns the prompt: the argument, stdin for `-`, or the file's text.

    Raises:
        InvalidRequestError: none of them was given, or two.
        ConfigError: it cannot be read.
    """
    if (prompt is None) == (file is None):
        raise InvalidRequestError("give the prompt as an argument, as - for stdin, or with --file; exactly one of them")
    if file is not None:
        return read_utf8(file)
    return read_stdin() if prompt == "-" else str(prompt)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Says that the file was written, once the block has done it. Raises ConfigError: it could not be."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error}", file=str(file)) from None
    screen.note(f"wrote {file}")
