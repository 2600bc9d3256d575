"""Shows on stderr what a command waits for: bars and spinners on a terminal, elsewhere a line now and then."""

import math
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from testronaut_llm.local.download import Progress, Report
from testronaut_llm.support.text import visible

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
