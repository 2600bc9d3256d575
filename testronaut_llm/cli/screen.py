"""Prints results to stdout and everything else to stderr: text, tables, JSON, progress; escapes control characters."""

import errno
import json
import math
import os
import re
import shutil
import sys
import textwrap
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from decimal import Decimal
from typing import Any, TextIO, cast

from testronaut_llm import errors
from testronaut_llm.errors import LLMError
from testronaut_llm.local.download import Progress, Report
from testronaut_llm.support.text import usd, visible

FAILED, USAGE, BUDGET, FILTERED, UNREACHABLE, INTERRUPTED = 1, 2, 3, 4, 5, 130
PIPE_COLUMNS = 120
_SHORT = 30


def code_of(error: LLMError) -> int:
    """Returns the exit code of an error."""
    if isinstance(error, errors.BudgetExceededError):
        return BUDGET
    never_sent = isinstance(error, errors.InvalidRequestError) and error.model is None
    if never_sent or isinstance(error, errors.ConfigError | errors.NoReadyModelError):
        return UNREACHABLE if getattr(error, "unreachable", False) else USAGE
    last = getattr(error, "last", None) or error
    if isinstance(last, errors.ContentFilteredError):
        return FILTERED
    tried = [one.error for one in error.attempts] or [last]
    return UNREACHABLE if all(isinstance(one, errors.ConnectionFailedError) for one in tried) else FAILED


class CannotPrintError(Exception):
    """A result cannot be written to stdout. `reader_left`: the reader closed the pipe, which is not an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"cannot write to stdout: {getattr(error, 'strerror', None) or error}")
        self.reader_left = isinstance(error, BrokenPipeError)


class Stream:
    """Stdout or stderr with control characters escaped. Errors of stderr are ignored."""

    def __init__(self, raw: TextIO | None, *, is_result: bool) -> None:
        self.raw, self._is_result = raw, is_result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def isatty(self) -> bool:
        """True if it is a terminal."""
        return self.raw is not None and self.raw.isatty()

    def write(self, text: str, *, unchanged: bool = False) -> int:
        """Writes text, escaped unless `unchanged`. Raises CannotPrintError if stdout cannot be written."""
        shown = text if unchanged else visible(text)  # raises TypeError for bytes, by which click tests a stream
        if (live := area.live) and not self._is_result:
            if line := shown.removesuffix("\n"):  # `print` writes the end of a line by itself
                live.console.print(line, soft_wrap=True)  # above bars and spinners
        elif shown:
            self._do("write", shown)
        return len(shown)

    def flush(self) -> None:
        """Flushes what was written. Raises CannotPrintError: as `write`."""
        self._do("flush")

    def _do(self, action: str, *arguments: str) -> None:
        try:
            if self.raw is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            getattr(self.raw, action)(*arguments)
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            # What is left in the buffer goes to the null device, or the interpreter would fail on it again at exit.
            with suppress(OSError, ValueError, AttributeError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, cast(TextIO, self.raw).fileno())
                os.close(null)
            if self._is_result:
                raise CannotPrintError(error) from None


@contextmanager
def standard_streams() -> Iterator[None]:
    """Replaces stdout and stderr by UTF-8 `Stream` objects, independent of the locale."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next socket would get its number, and receive what libraries print
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    results, notes = Stream(sys.stdout, is_result=True), Stream(sys.stderr, is_result=False)
    with redirect_stdout(cast(TextIO, results)), redirect_stderr(cast(TextIO, notes)):
        yield


def out(text: str, end: str = "\n", *, is_answer: bool = False) -> None:
    """Prints a result and flushes it, so that a closed pipe raises here. An answer goes into a pipe unchanged."""
    if is_answer and isinstance(sys.stdout, Stream) and not sys.stdout.isatty():
        sys.stdout.write(text + end, unchanged=True)
    else:
        sys.stdout.write(text + end)
    sys.stdout.flush()


def note(text: str) -> None:
    """Prints to stderr."""
    on_terminal = sys.stderr.isatty()
    sys.stderr.write("\n".join(_wrapped(text, shutil.get_terminal_size().columns) if on_terminal else [text]) + "\n")


def _wrapped(text: str, width: int) -> list[str]:
    """Returns the lines of a text. Long lines break after semicolons, else between words, and continue indented."""
    lines: list[str] = []
    for line in text.split("\n"):
        lead = " " * (len(line) - len(line.lstrip(" ")))
        wrapper = textwrap.TextWrapper(width, lead, f"{lead}    ", break_long_words=False, break_on_hyphens=False)
        for part in [line] if len(line) <= width else re.split("(?<=;) ", line):
            lines += wrapper.wrap(part.strip())
            wrapper.initial_indent = f"{lead}    "
    return lines


def out_json(value: Any) -> None:
    """Prints a value as JSON."""
    out(json.dumps(plain(value), ensure_ascii=False, indent=2))


def plain(value: Any) -> Any:
    """Returns the value in JSON types: money as text, errors as their facts, pydantic models as objects."""
    from pydantic import TypeAdapter

    def fallback(other: Any) -> Any:
        if isinstance(other, LLMError):
            facts = {name: getattr(other, name) for name in ("model", "provider", "status", "retry_after")}
            return {"code": other.code, "message": str(other), **facts}
        if isinstance(other, Mapping):
            return dict(other)
        return list(other) if isinstance(other, Iterable) else str(other)

    return TypeAdapter(Any).dump_python(value, mode="json", by_alias=False, fallback=fallback)


def facts(title: str, found: Mapping[str, Any], units: Mapping[str, str] | None = None) -> None:
    """Prints the fields of an object as a table, with units."""
    rows = [
        (name.replace("_", " "), f"{_cell(value)} {(units or {}).get(name, '')}".rstrip())
        for name, value in found.items()
        if value is not None
    ]
    table(title, ("what", "value"), rows)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, drawn: bool | None = None) -> None:
    """Prints a table: aligned on a terminal or if `drawn`, else lines with tabs. A long last column goes below."""
    on_terminal = sys.stdout.isatty()
    cells = [[visible(_cell(value)) for value in row] for row in (columns, *rows)]
    if not (on_terminal if drawn is None else drawn):
        out("\n".join("\t".join(" ".join(cell.split()) for cell in row) for row in cells))
        return
    from rich.cells import cell_len, set_cell_size

    width = shutil.get_terminal_size().columns if on_terminal else PIPE_COLUMNS
    sizes = [max(map(cell_len, column)) + 2 for column in zip(*cells, strict=True)]
    below: dict[str, list[str]] = {}
    if any("\n" in row[-1] for row in cells) or (sizes[-1] > _SHORT and sum(sizes) - 2 > width):
        for name, *_, text in cells[1:]:
            if text:
                below.setdefault(text, []).append(name)
        cells = [row[:-1] for row in cells if len(row) > 2]  # names alone carry no information
    lines = [title, *("".join(map(set_cell_size, row, sizes)).rstrip() for row in cells)]
    lines += [""] if cells and below else []
    for text, names in below.items():
        lines += _wrapped(f"{', '.join(names)}: {text}".replace("\n", "\n    "), width)
    out("\n".join(lines))


def _cell(value: object) -> str:
    """Returns `?` for None, `yes` or `no`, `1,234`, `$1.25`, `a 1, b 2` for a mapping, or the text."""
    if value is None:
        return "?"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        return usd(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(one)}" for name, one in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if isinstance(value, float) else str(value)


EVERY_SECONDS = 5.0
"""Seconds between two lines if there is no terminal."""
_NOTHING = Progress()
_FRAMES = "|/-\\"


@contextmanager
def progress(title: str, unit: str = "bytes", start: Progress = _NOTHING) -> Iterator[Report]:
    """Yields a function that shows progress: as a bar on a terminal, elsewhere as a line every few seconds.

    The unit `seconds` is for a wait without steps: on a terminal a spinner, elsewhere nothing.
    """
    if sys.stderr.isatty():
        with area.task(title, unit, start) as show:
            yield show
        return
    due = math.inf if unit == "seconds" else 0.0

    def line(step: Progress) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + EVERY_SECONDS
            counted = f"{title}: {step.done:,}{f' of {step.total:,}' if step.total else ''} {unit}"
            sys.stderr.write(", ".join(filter(None, (counted, step.note))) + "\n")

    yield line


class _Area:
    """The last lines of the terminal, which show bars and spinners while there are any. Safe for threads."""

    def __init__(self) -> None:
        self.live: Any = None
        self._lock = threading.Lock()

    @contextmanager
    def task(self, title: str, unit: str, start: Progress) -> Iterator[Report]:
        """Shows a task; yields a function that takes its progress."""
        with self._lock:
            if self.live is None:
                self.live = _display()
                self.live.start()
            live = self.live
            task = live.add_task(visible(title), completed=start.done, total=start.total, unit=unit)
        said = title

        def show(step: Progress) -> None:
            nonlocal said
            before, said = said, (step.note or title) if unit == "bytes" else f"{title}, {step.note}"
            now = unit == "bytes" and said != before  # else each step has new words
            live.update(task, completed=step.done, total=step.total, description=visible(said), refresh=now)

        try:
            yield show
        finally:
            with self._lock:
                if len(live.task_ids) == 1:
                    live.stop()  # draws it once more, then erases it
                    self.live = None
                live.remove_task(task)


def _display() -> Any:
    from rich import progress as bars
    from rich.console import Console
    from rich.table import Column
    from rich.text import Text

    class Numbers(bars.ProgressColumn):
        def render(self, task: bars.Task) -> Text:
            of_bytes = (bars.DownloadColumn(), bars.TransferSpeedColumn())
            counts = of_bytes if task.fields["unit"] == "bytes" else (bars.MofNCompleteColumn(),)
            return Text(" ").join(one.render(task) for one in (*counts, bars.TimeRemainingColumn()))

    class Display(bars.Progress):
        def get_renderables(self) -> Iterable[Any]:
            """Yields each bar, and one line for all waits with the same title."""
            waits: defaultdict[str, list[float]] = defaultdict(list)
            for task in self.tasks:
                if task.fields["unit"] == "seconds":
                    waits[task.description].append(task.elapsed or 0.0)
                else:
                    yield self.make_tasks_table([task])
            for title, seconds in waits.items():
                many = f", {len(seconds)} requests" if len(seconds) > 1 else ""
                line = f"{_FRAMES[int(max(seconds) * 8) % 4]} {title}{many}: {max(seconds):.0f} s"
                yield Text(line, no_wrap=True, overflow="ellipsis")

    room = Column(no_wrap=True, max_width=max(16, shutil.get_terminal_size().columns - 58))  # the others need 58
    about = bars.TextColumn("{task.description}", markup=False, table_column=room)
    raw = getattr(sys.stderr, "raw", sys.stderr)  # the codes that move the cursor must not be escaped
    console = Console(file=raw, highlight=False, markup=False, emoji=False, color_system=None)
    settings: dict[str, Any] = {"redirect_stdout": False, "redirect_stderr": False, "refresh_per_second": 8}
    return Display(about, bars.BarColumn(bar_width=20), Numbers(), console=console, transient=True, **settings)


area = _Area()
