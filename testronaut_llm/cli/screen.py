"""What is shown and how: results on stdout, all else on stderr, JSON where a program reads."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testronaut_llm.errors import (
    BudgetExceededError,
    ConfigError,
    InvalidRequestError,
    LLMError,
    NoReadyModelError,
)

if TYPE_CHECKING:
    from rich.console import Console

FAILED, USAGE, BUDGET = 1, 2, 3


def exit_code(error: LLMError) -> int:
    """1 where models failed, 2 where usage or configuration is wrong, 3 where a budget holds."""
    if isinstance(error, BudgetExceededError):
        return BUDGET
    if isinstance(error, ConfigError | NoReadyModelError):
        return USAGE
    return USAGE if isinstance(error, InvalidRequestError) and error.model is None else FAILED


def out(text: str) -> None:
    """Prints a result."""
    sys.stdout.write(text + "\n")


def piece(text: str) -> None:
    """Prints a piece of a result at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def note(text: str) -> None:
    """Prints what is no result."""
    sys.stderr.write(text + "\n")


def say_error(error: LLMError) -> None:
    """Prints an error, with its kind in front."""
    note(f"error ({error.code}): {error}")


def out_json(value: Any) -> None:
    """Prints a value as JSON."""
    out(json.dumps(plain(value), ensure_ascii=False, indent=2))


def plain(value: Any) -> Any:
    """The value in JSON's kinds: money as text, errors as their facts, pydantic models as objects."""
    if isinstance(value, LLMError):
        facts = {name: plain(getattr(value, name)) for name in ("model", "provider", "status", "retry_after")}
        return {"code": value.code, "message": str(value), **facts}
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Decimal | Path | Enum):
        return str(value)
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, Iterable) else str(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table: drawn on a terminal, lines with tabs in a pipe."""
    if not sys.stdout.isatty():
        out("\t".join(columns))
        for row in rows:
            out("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich.table import Table

    drawn = Table(title=title, title_justify="left")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    console().print(drawn)


def console() -> Console:
    """Rich on stdout."""
    from rich.console import Console

    return Console(highlight=False, markup=False)
