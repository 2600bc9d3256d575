"""`run --batch`: a file of prompts in, a file of answers out, with a bar, the time and the money that are left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.batch_file import BatchFile
from testronaut_llm.cli.progress import EVERY_SECONDS
from testronaut_llm.cli.spend import bill
from testronaut_llm.errors import ConfigError, LLMError
from testronaut_llm.records import Answer
from testronaut_llm.support.money import usd

_STEERING = ("cache", "max_cost")
"""Options that make no other answer."""


def run_batch(
    llm: testronaut_llm.LLMManager, task: str, prompts: Path, out: Path, *, concurrency: int, options: Mapping[str, Any]
) -> int:
    """Asks what has no answer in `out` yet, and returns how many failed.

    Raises:
        LLMError: the files or the options are wrong.
    """
    shared = {"task": task, **{name: value for name, value in options.items() if name not in _STEERING}}
    with BatchFile(prompts, out, shared) as batch:
        if batch.stale:
            screen.note(f"{out}: {batch.stale:,} lines answer other prompts or options; they go at the end of this run")
        if batch.answered:
            screen.note(f"{out}: {batch.answered:,} of {batch.total:,} are answered already")
        try:
            with _shown(llm, batch) as show:

                def answered(place: int, result: Answer[Any] | LLMError) -> None:
                    batch.write(place, result)
                    show()

                llm.answer_each(task, batch.missing(), answered, concurrency=concurrency, options=options)
        except KeyboardInterrupt:
            screen.note(f"stopped with {_state(llm, batch)}; the same command goes on from here")
            raise
        batch.finish()
        screen.note(f"{out}: {_state(llm, batch)}")
        if batch.failed:
            screen.note("the same command asks those that failed once more")
        return batch.failed


def _state(llm: testronaut_llm.LLMManager, batch: BatchFile) -> str:
    failed = f", {batch.failed:,} failed" if batch.failed else ""
    return f"{batch.answered:,} of {batch.total:,} answered{failed}; {bill(llm)}"


@contextmanager
def _shown(llm: testronaut_llm.LLMManager, batch: BatchFile) -> Iterator[Callable[[], None]]:
    """A function to be called after each answer."""
    left = _left(llm)
    if sys.stderr.isatty():
        with _bar(llm, batch, left) as drawn:
            yield drawn
        return
    before, began = batch.answered, time.monotonic()
    last = began

    def show() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY_SECONDS:
            last = now
            ended = batch.answered + batch.failed
            rest = (batch.total - ended) * (now - began) / max(1, ended - before)
            screen.note(f"{_state(llm, batch)}{next(left)}; about {rest:.0f} s to go")

    yield show


@contextmanager
def _bar(llm: testronaut_llm.LLMManager, batch: BatchFile, left: Iterator[str]) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    words = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), words)
    with Progress(*columns, console=screen.console(sys.stderr)) as drawn:
        bar = drawn.add_task("", total=batch.total, completed=batch.answered)

        def show() -> None:
            failed = f"{batch.failed:,} failed, " if batch.failed else ""
            said = f"{failed}{bill(llm)}{next(left)}"
            drawn.update(bar, completed=batch.answered + batch.failed, description=said)

        yield show


def _left(llm: testronaut_llm.LLMManager) -> Iterator[str]:
    """`, $1.20 left of budget.per_day`, the tightest one, again and again; looked up every few seconds."""
    until, said = 0.0, ""
    while True:
        if time.monotonic() >= until:
            until, said = time.monotonic() + EVERY_SECONDS, ""
            with suppress(ConfigError):
                tightest = min(llm.spend(since="1d").limits, key=lambda limit: limit.left, default=None)
                said = f", {usd(tightest.left)} left of {tightest.name}" if tightest else ""
        yield said
