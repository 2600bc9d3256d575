"""What is shown and how: results on stdout, all else on stderr, JSON where a program reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from testronaut_llm.errors import BudgetExceededError, ConfigError, InvalidRequestError, LLMError, NoReadyModelError
from testronaut_llm.support.text import visible

if TYPE_CHECKING:
    from rich.console import Console

FAILED, USAGE, BUDGET = 1, 2, 3
PIPE_COLUMNS = 120


def exit_code(error: LLMError) -> int:
    """1 where models failed, 2 where usage or configuration is wrong, 3 where a budget holds."""
    if isinstance(error, BudgetExceededError):
        return BUDGET
    ours = isinstance(error, InvalidRequestError) and error.model is None  # refused before any model was asked
    return USAGE if ours or isinstance(error, ConfigError | NoReadyModelError) else FAILED


def out(text: str, end: str = "\n") -> None:
    """Prints a result at once: a closed pipe is then met here, and a reader need not wait for the end."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def answer(text: str, end: str = "\n") -> None:
    """Prints an answer: a pipe gets its very bytes, a terminal no control characters."""
    stream = sys.stdout if sys.stdout.isatty() else _unescaped(sys.stdout)
    stream.write(text + end)
    stream.flush()


def _unescaped(stream: TextIO) -> TextIO:
    return getattr(stream, "unescaped", stream)


def note(text: str) -> None:
    """Prints what is no result."""
    sys.stderr.write(text + "\n")


def _without_keys() -> str:
    from testronaut_llm.local.model_downloader import DEFAULT
    from testronaut_llm.local.model_store import ModelStore

    same = f"the same command with --model embedded/{DEFAULT} --max-tokens 200 (free, weak: it shows the way)"
    pull = "" if ModelStore().get(DEFAULT) else f"testronaut-llm models pull embedded/{DEFAULT}\n  then "
    return f"  without any key: {pull}{same}"


def say_error(error: LLMError) -> None:
    """Prints an error, with its kind in front, and what was noted on it."""
    note(f"error ({error.code}): {error}")
    for line in getattr(error, "__notes__", ()):
        note(line)
    if isinstance(error, NoReadyModelError):
        note(_without_keys())


def out_json(value: Any) -> None:
    """Prints a value as JSON."""
    out(json.dumps(plain(value), ensure_ascii=False, indent=2))


def plain(value: Any) -> Any:
    """The value in JSON's kinds: money as text, errors as their facts, pydantic models as objects."""
    from pydantic import TypeAdapter

    return TypeAdapter(Any).dump_python(value, mode="json", by_alias=False, fallback=_plainer)


def _plainer(value: Any) -> Any:
    if isinstance(value, LLMError):
        facts = {name: getattr(value, name) for name in ("model", "provider", "status", "retry_after")}
        return {"code": value.code, "message": str(value), **facts}
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Iterable) else str(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, drawn: bool | None = None) -> None:
    """Prints a table: drawn on a terminal, lines with tabs in a pipe, unless `drawn` says which."""
    on_terminal = sys.stdout.isatty()
    if not (on_terminal if drawn is None else drawn):
        out("\t".join(columns))
        for row in rows:
            out("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich.table import Table

    picture = Table(title=visible(title) or None, title_justify="left")
    for column in columns:
        picture.add_column(column, overflow="fold")
    for row in rows:
        picture.add_row(*map(visible, row))
    console(sys.stdout, width=None if on_terminal else PIPE_COLUMNS).print(picture)
    sys.stdout.flush()


def console(stream: TextIO, width: int | None = None) -> Console:
    """Returns a console of rich's that draws on a stream, and shows no text's own markup and control characters."""
    from rich.console import Console
    from rich.segment import Segment

    class Escaping(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for one in super().render(renderable, options):
                yield one if one.control else Segment(visible(one.text), one.style)

    file = _unescaped(stream)
    return Escaping(file=file, width=width, highlight=False, markup=False, emoji=False, color_system=None)
