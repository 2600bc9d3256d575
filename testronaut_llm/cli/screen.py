"""Output: results on stdout, all else on stderr, as text, tables, JSON and progress, without control characters."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from decimal import Decimal
from typing import Any, TextIO, cast

from testronaut_llm.errors import LLMError
from testronaut_llm.local.download import WARNING, Progress, Report
from testronaut_llm.support.money import usd
from testronaut_llm.support.text import visible

FAILED, USAGE, BUDGET, INTERRUPTED = 1, 2, 3, 130
PIPE_COLUMNS = 120
_INDENT, _SHORT = "    ", 30
EVERY_SECONDS = 5.0
"""Time between two lines of progress where there is no terminal."""

Show = Callable[[int, int | None, str], None]


class CannotPrintError(Exception):
    """A result cannot be written to stdout.

    Attributes:
        reader_left: True if the reader closed the pipe, which is no failure.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(f"cannot write to stdout: {getattr(error, 'strerror', None) or error}")
        self.reader_left = isinstance(error, BrokenPipeError)


class Stream:
    """Stdout or stderr with control characters escaped. What cannot be written to stderr is dropped."""

    def __init__(self, raw: TextIO | None, *, is_result: bool) -> None:
        self.raw, self._is_result = raw, is_result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def isatty(self) -> bool:
        """True on a terminal."""
        return self.raw is not None and self.raw.isatty()

    def write(self, text: str) -> int:
        """Writes escaped text and returns its length. Raises CannotPrintError: stdout cannot be written."""
        shown = visible(text)
        return self.write_unescaped(shown) if shown else 0  # click writes "" to test a stream

    def write_unescaped(self, text: str) -> int:
        """Writes text as it is, for answers that go into a pipe. Raises CannotPrintError: as `write`."""
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        """Flushes what was written. Raises CannotPrintError: as `write`."""
        self._try("flush")

    def _try(self, action: str, *arguments: str) -> None:
        try:
            if self.raw is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            getattr(self.raw, action)(*arguments)
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            self._discard()
            if self._is_result:
                raise CannotPrintError(error) from None

    def _discard(self) -> None:
        """Sends the rest of the buffer to the null device: the interpreter would fail on it again at its exit."""
        with suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, cast(TextIO, self.raw).fileno())
            os.close(null)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Replaces stdout and stderr by UTF-8 `Stream` objects, whatever the locale says."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next socket would get its number, and whatever libraries print
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    results, notes = Stream(sys.stdout, is_result=True), Stream(sys.stderr, is_result=False)
    with redirect_stdout(cast(TextIO, results)), redirect_stderr(cast(TextIO, notes)):
        yield


def out(text: str, end: str = "\n") -> None:
    """Prints a result, and flushes it: a reader need not wait, and a closed pipe is noticed here."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def answer(text: str, end: str = "\n") -> None:
    """Prints an answer: unchanged in a pipe, escaped on a terminal."""
    if isinstance(sys.stdout, Stream) and not sys.stdout.isatty():
        sys.stdout.write_unescaped(text + end)
        sys.stdout.flush()
    else:
        out(text, end)


def note(text: str) -> None:
    """Prints to stderr."""
    sys.stderr.write(text + "\n")


def out_json(value: Any) -> None:
    """Prints a value as JSON."""
    out(json.dumps(plain(value), ensure_ascii=False, indent=2))


def plain(value: Any) -> Any:
    """Returns the value in JSON types: money as text, errors as their facts, pydantic models as objects."""
    from pydantic import TypeAdapter

    return TypeAdapter(Any).dump_python(value, mode="json", by_alias=False, fallback=_plainer)


def _plainer(value: Any) -> Any:
    if isinstance(value, LLMError):
        facts = {name: getattr(value, name) for name in ("model", "provider", "status", "retry_after")}
        return {"code": value.code, "message": str(value), **facts}
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Iterable) else str(value)


def show(value: Any, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, as_json: bool) -> None:
    """Prints a value as JSON, or its rows as a table."""
    if as_json:
        out_json(value)
    else:
        table(title, columns, rows)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, drawn: bool | None = None) -> None:
    """Prints a table: aligned on a terminal, or if `drawn`; lines with tabs in a pipe."""
    on_terminal = sys.stdout.isatty()
    cells = [[visible(_cell(value)) for value in row] for row in (columns, *rows)]
    if not (on_terminal if drawn is None else drawn):
        for row in cells:
            out("\t".join(" ".join(cell.split()) for cell in row))
        return
    width = shutil.get_terminal_size().columns if on_terminal else PIPE_COLUMNS
    out("\n".join(filter(None, (title, *_aligned(cells, width)))))


def _aligned(rows: list[list[str]], width: int) -> Iterator[str]:
    """Yields the lines of a table. A long last column is below its row if it does not fit beside it."""
    from rich.cells import cell_len, set_cell_size

    sizes = [max(map(cell_len, column)) + 2 for column in zip(*(row[:-1] for row in rows), strict=True)]
    longest = max(cell_len(row[-1]) for row in rows)
    below = any("\n" in row[-1] for row in rows) or (longest > _SHORT and sum(sizes) + longest > width)
    for number, (*cells, last) in enumerate(rows):
        start = "".join(set_cell_size(cell, size) for cell, size in zip(cells, sizes, strict=True))
        if number == 0 or not below:
            yield (start + last).rstrip()
            continue
        yield start.rstrip()
        for line in last.splitlines():
            yield textwrap.fill(line, width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False)


def _cell(value: object) -> str:
    """Returns `?` for None, `yes` or `no`, `1,234`, `$1.25`, or the text."""
    if value is None:
        return "?"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        return usd(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


@contextmanager
def progress(title: str, unit: str) -> Iterator[Show]:
    """Yields a function of (done, total, words): a bar on a terminal, elsewhere a line every few seconds."""
    if not sys.stderr.isatty():
        yield _lines(title, unit)
        return
    from rich import progress as bars
    from rich.console import Console

    counts = (bars.DownloadColumn(), bars.TransferSpeedColumn()) if unit == "bytes" else (bars.MofNCompleteColumn(),)
    columns = (bars.TextColumn("{task.description}", markup=False), bars.BarColumn(), *counts)
    raw = getattr(sys.stderr, "raw", sys.stderr)  # the codes that move the cursor must not be escaped; the words are
    console = Console(file=raw, highlight=False, markup=False, emoji=False, color_system=None)
    options: dict[str, Any] = {"console": console, "redirect_stdout": False, "redirect_stderr": False}
    with bars.Progress(*columns, bars.TimeRemainingColumn(), **options) as drawn:
        bar = drawn.add_task(visible(title), total=None)

        def show(done: int, total: int | None, words: str) -> None:
            if words.startswith(WARNING):
                console.print(visible(words))
            drawn.update(bar, completed=done, total=total, description=visible(words or title))

        yield show


def _lines(title: str, unit: str) -> Show:
    due = time.monotonic()

    def show(done: int, total: int | None, words: str) -> None:
        nonlocal due
        if time.monotonic() < due and not words.startswith(WARNING):
            return
        due = time.monotonic() + EVERY_SECONDS
        note(", ".join(filter(None, (f"{title}: {done:,}{f' of {total:,}' if total else ''} {unit}", words))))

    return show


@contextmanager
def downloading(title: str) -> Iterator[Report]:
    """Yields the function to which a download reports its progress."""
    with progress(title, "bytes") as show:

        def report(step: Progress) -> None:
            show(step.done, step.total, step.note)

        yield report
