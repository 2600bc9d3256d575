"""`run --batch`: asks the prompts of one file, and adds a line for each answer to another."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testronaut_llm.cli import options, screen
from testronaut_llm.cli.screen import progress
from testronaut_llm.errors import ConfigError, LLMError
from testronaut_llm.local.download import Progress
from testronaut_llm.records import Answer
from testronaut_llm.support.text import counted, usd

if TYPE_CHECKING:
    import testronaut_llm
    from testronaut_llm.methods.batch import Estimate
    from testronaut_llm.prompts import Prompt

Key = tuple[int, str]
"""Identifies a prompt: its line number, and a digest of it and the options that change its answer."""

_WRITTEN = ("text", "parsed", "model", "provider_model", "cached", "cost", "saved", "usage", "finish_reason", "latency")
_SAME_ANSWER = ("cache", "max_cost")
"""Options that do not change the answer."""


def run_batch(
    llm: testronaut_llm.LLMManager, task: str, prompts: Path, out: Path, *, concurrency: int, given: Mapping[str, Any]
) -> Counter[int]:
    """Asks each prompt that has no answer in `out`. Raises LLMError if a file is wrong.

    Returns how many failed, by the exit code of their error.
    """
    salt, (done, end) = _salt(task, given), read_answers(out)
    total = answered = 0
    failed = Counter[int]()
    for key, _ in keyed(prompts, salt):
        total += 1
        answered += key in done
    asked: dict[int, Key] = {}

    def missing() -> Iterator[Prompt]:
        for place, (key, prompt) in enumerate(one for one in keyed(prompts, salt) if one[0] not in done):
            asked[place] = key
            yield prompt

    def take(place: int, result: Answer[Any] | LLMError) -> None:
        nonlocal answered
        append(file, asked.pop(place), result)
        answered += isinstance(result, Answer)
        failed.update([screen.code_of(result)] if isinstance(result, LLMError) else [])
        words = f"{failed.total():,} failed, " if failed else ""
        show(Progress(done=answered + failed.total(), total=total, note=words + options.bill(llm)))

    def state() -> str:
        words = f", {failed.total():,} failed" if failed else ""
        return f"{answered:,} of {total:,} answered{words}; {options.bill(llm)}"

    start = Progress(done=answered, total=total)
    if answered:
        screen.note(f"{out}: {answered:,} of {total:,} are already answered")
    try:
        with opened(out, end) as file, progress(out.name, "prompts", start) as show:
            llm.answer_each(task, missing(), take, concurrency=concurrency, **given)
    except KeyboardInterrupt:
        screen.note(f"{out}: stopped with {state()}; run the same command again to continue")
        raise
    screen.note(f"{out}: {state()}{'; run the same command again to ask those that failed' if failed else ''}")
    return failed


def estimate_batch(
    llm: testronaut_llm.LLMManager, task: str, prompts: Path, out: Path | None, *, given: Mapping[str, Any]
) -> Estimate:
    """Returns what the prompts that have no answer in `out` would cost. Raises as `run_batch`."""
    done, salt = read_answers(out)[0] if out is not None else set(), _salt(task, given)
    return llm.estimate(task, (prompt for key, prompt in keyed(prompts, salt) if key not in done), **given)


def show_estimate(title: str, found: Estimate) -> None:
    """Prints an estimate as a table, what the budget leaves, and why prompts are refused."""
    columns = ("model", "asked first", "can be asked", "tokens", "cost", "at most", "why not")
    rows = [
        (one.model, one.first, one.prompts, one.tokens + one.answer_tokens, one.cost, one.worst_cost, one.reason)
        for one in (*found.models, found.route)
    ]
    screen.table(title, columns, rows)
    left = f"; {usd(max(found.left, Decimal(0)))} is left of {found.limit}" if found.left is not None else ""
    over = ", which is not enough" if left and found.route.first and found.fits is False else ""
    counts = f"{counted(found.prompts, 'prompt')}, {found.cached:,} cached, {found.refused:,} refused"
    screen.note("\n".join((f"{counts}{left}{over}", *(f"refused: {error}" for error in found.errors.values()))))


def _salt(task: str, given: Mapping[str, Any]) -> str:
    """Returns what changes the answers of a batch beside its prompts."""
    shared = {"task": task, **{name: value for name, value in given.items() if name not in _SAME_ANSWER}}
    return json.dumps(shared, sort_keys=True, default=str)


def keyed(prompts: Path, salt: str) -> Iterator[tuple[Key, Any]]:
    """Yields each prompt of a file with its key; raises as `options.prompts_of`."""
    for number, line, prompt in options.prompts_of(prompts):
        yield (number, hashlib.sha256(f"{salt}\n{line}".encode()).hexdigest()[:16]), prompt


def read_answers(out: Path) -> tuple[set[Key], int]:
    """Returns the keys that earlier runs answered, and the length of the whole lines: a crash may cut the last one."""
    done, end = set[Key](), 0
    if not os.path.isfile(out):
        return done, end
    try:
        with options.file_errors("use", out), out.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    row = json.loads(line)
                    key = int(row["line"]), str(row["mark"])
                    end += len(line)
                    if "error" not in row:
                        done.add(key)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise ConfigError(f"{out} is not a file of answers; name another one with --out") from None
    return done, end


def opened(out: Path, end: int) -> FileIO:
    """Opens a file to append to, after its first `end` bytes. Raises ConfigError: it cannot be written."""
    with options.file_errors("use", out):
        file = FileIO(out, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))
        file.truncate(end)
    return file


def append(file: FileIO, key: Key, result: Answer[Any] | LLMError) -> None:
    """Adds the line of one result. Raises ConfigError if it cannot be written."""
    row: dict[str, Any] = {"line": key[0], "mark": key[1]}
    if isinstance(result, Answer):
        row |= {name: screen.plain(getattr(result, name)) for name in _WRITTEN}
    else:
        row["error"] = screen.plain(result)
    line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    again = "; paid answers are in the cache: free some disk space, and run the same command again"
    with options.file_errors("write", file.name, again):
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
