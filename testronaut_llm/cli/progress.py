"""Shows on stderr what a command waits for: bars and spinners on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from testronaut_llm.local.download import WARNING, Progress, Report
from testronaut_llm.support.text import visible

EVERY_SECONDS, SPINNER_AFTER = 5.0, 0.5
"""Seconds between two lines if there is no terminal, and until a wait is shown."""
_NOTHING = Progress()
_FRAMES = "|/-\\"


@contextmanager
def progress(title: str, unit: str = "bytes", start: Progress = _NOTHING) -> Iterator[Report]:
    """Yields a function that shows progress: as a bar on a terminal, elsewhere as a line every few seconds.

    The unit `seconds` is for a wait without steps: on a terminal a spinner, if it takes long, elsewhere nothing.
    """
    if sys.stderr.isatty():
        if unit == "seconds":
            with area.showing((visible(title), time.monotonic())):
                yield lambda _: None
        else:
            with _bar(title, unit, start) as show:
                yield show
        return
    due = math.inf if unit == "seconds" else 0.0

    def line(step: Progress) -> None:
        nonlocal due
        if time.monotonic() >= due or step.note.startswith(WARNING):
            due = time.monotonic() + EVERY_SECONDS
            counted = f"{title}: {step.done:,}{f' of {step.total:,}' if step.total else ''} {unit}"
            sys.stderr.write(", ".join(filter(None, (counted, step.note))) + "\n")

    yield line


@contextmanager
def _bar(title: str, unit: str, start: Progress) -> Iterator[Report]:
    from rich import progress as bars
    from rich.table import Column

    counts = (bars.DownloadColumn(), bars.TransferSpeedColumn()) if unit == "bytes" else (bars.MofNCompleteColumn(),)
    others = 58 if unit == "bytes" else 42  # columns that the bar and the numbers need
    room = Column(no_wrap=True, max_width=max(16, shutil.get_terminal_size().columns - others))
    about = bars.TextColumn("{task.description}", markup=False, table_column=room)
    bar = bars.Progress(about, bars.BarColumn(bar_width=20), *counts, bars.TimeRemainingColumn())
    task = bar.add_task(visible(title), completed=start.done, total=start.total)
    with area.showing(bar) as refresh:

        def show(step: Progress) -> None:
            if step.note.startswith(WARNING):
                sys.stderr.write(f"{step.note}\n")
            before, words = bar.tasks[0].description, step.note or title
            if unit != "bytes":
                words = f"{title}, {step.note}"
            bar.update(task, completed=step.done, total=step.total, description=visible(words))
            if unit == "bytes" and words != before:  # else each step has new words
                refresh()

        yield show


class _Area:
    """The last lines of the terminal, which show bars and spinners while there are any. Safe for threads."""

    def __init__(self) -> None:
        self.live: Any = None
        self._parts: list[Any] = []  # a bar of rich, or the title and the start of a wait
        self._lock = threading.Lock()

    @contextmanager
    def showing(self, part: Any) -> Iterator[Callable[[], None]]:
        """Shows a part; yields a function that draws it now."""
        with self._lock:
            self._parts.append(part)
            if self.live is None:
                self.live = self._started()
            live = self.live
        try:
            live.refresh()
            yield live.refresh
        finally:
            with self._lock:
                if len(self._parts) == 1:
                    live.stop()  # draws it once more, then erases it
                    self.live = None
                self._parts.remove(part)

    def _started(self) -> Any:
        from rich.console import Console
        from rich.live import Live

        raw = getattr(sys.stderr, "raw", sys.stderr)  # the codes that move the cursor must not be escaped
        console = Console(file=raw, highlight=False, markup=False, emoji=False, color_system=None)
        options: dict[str, Any] = {"redirect_stdout": False, "redirect_stderr": False, "refresh_per_second": 8}
        live = Live(get_renderable=self._drawn, console=console, transient=True, **options)
        live.start()
        return live

    def _drawn(self) -> Any:
        """Returns the bars, and one line for all waits with the same title."""
        from rich.console import Group
        from rich.text import Text

        now, waits, parts = time.monotonic(), dict[str, list[float]](), []
        for part in [*self._parts]:
            if isinstance(part, tuple):
                waits.setdefault(part[0], []).append(part[1])
            else:
                parts.append(part)
        for title, began in waits.items():
            if now - min(began) < SPINNER_AFTER:
                continue
            many = f", {len(began)} requests" if len(began) > 1 else ""
            line = f"{_FRAMES[int(now * 8) % 4]} {title}{many}: {now - min(began):.0f} s"
            parts.append(Text(line, no_wrap=True, overflow="ellipsis"))
        return Group(*parts)


area = _Area()
