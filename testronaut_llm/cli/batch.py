"""`run --batch`: a file of prompts in, one line an answer appended to another; lines that are there are not asked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import bill, prompts_of
from testronaut_llm.errors import ConfigError, LLMError
from testronaut_llm.local.download import Progress
from testronaut_llm.prompts import Prompt
from testronaut_llm.records import Answer

Key = tuple[int, str]
"""Number of a prompt's line, and a digest of the prompt and of all options that change its answer."""
_WRITTEN = ("text", "parsed", "model", "provider_model", "cached", "cost", "saved", "usage", "finish_reason", "latency")
_SAME_ANSWER = ("cache", "max_cost")
"""Options that do not change the answer."""


def run_batch(
    llm: testronaut_llm.LLMManager, task: str, prompts: Path, out: Path, *, concurrency: int, options: Mapping[str, Any]
) -> int:
    """Asks each prompt that has no answer in `out` yet, and returns how many failed. Raises LLMError: a wrong file."""
    shared = {"task": task, **{name: value for name, value in options.items() if name not in _SAME_ANSWER}}
    salt = json.dumps(shared, sort_keys=True, default=str)
    done, end = read_answers(out)
    total = answered = failed = 0
    for key, _ in keyed(prompts, salt):
        total += 1
        answered += key in done
    asked: dict[int, Key] = {}

    def missing() -> Iterator[Prompt]:
        for place, (key, prompt) in enumerate(one for one in keyed(prompts, salt) if one[0] not in done):
            asked[place] = key
            yield prompt

    def take(place: int, result: Answer[Any] | LLMError) -> None:
        nonlocal answered, failed
        append(file, asked.pop(place), result)
        answered += isinstance(result, Answer)
        failed += isinstance(result, LLMError)
        words = f"{f'{failed:,} failed, ' if failed else ''}{bill(llm)}"
        show(Progress(done=answered + failed, total=total, note=words))

    def state() -> str:
        return f"{answered:,} of {total:,} answered{f', {failed:,} failed' if failed else ''}; {bill(llm)}"

    if answered:
        screen.note(f"{out}: {answered:,} of {total:,} are answered already")
    try:
        with opened(out, end) as file, screen.progress(str(out), "prompts") as show:
            llm.answer_each(task, missing(), take, concurrency=concurrency, **options)
    except KeyboardInterrupt:
        screen.note(f"stopped with {state()}; run the same command again to continue")
        raise
    screen.note(f"{out}: {state()}{'; run the same command again to ask those that failed' if failed else ''}")
    return failed


def keyed(prompts: Path, salt: str) -> Iterator[tuple[Key, Prompt]]:
    """Yields each prompt of a file with its key. Raises ConfigError: a line holds no prompt."""
    for number, line, prompt in prompts_of(prompts):
        yield (number, hashlib.sha256(f"{salt}\n{line}".encode()).hexdigest()[:16]), prompt


def read_answers(out: Path) -> tuple[set[Key], int]:
    """Returns the keys that earlier runs answered, and the bytes of whole lines: a crash may have cut the last one."""
    done, end = set(), 0
    try:
        with out.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    row = json.loads(line)
                    key = int(row["line"]), str(row["mark"])
                    end += len(line)
                    if "error" not in row:
                        done.add(key)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigError(f"cannot use {out}: {error.strerror}", file=str(out)) from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigError(f"{out} is not a file of answers; name another one with --out") from None
    return done, end


def opened(out: Path, end: int) -> FileIO:
    """Opens a file to append to, after its first `end` bytes. Raises ConfigError: it cannot be written."""
    try:
        file = FileIO(out, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))
        file.truncate(end)
    except OSError as error:
        raise ConfigError(f"cannot use {out}: {error.strerror}", file=str(out)) from None
    return file


def append(file: FileIO, key: Key, result: Answer[Any] | LLMError) -> None:
    """Adds the line of one result. Raises ConfigError: the disk is full."""
    row: dict[str, Any] = {"line": key[0], "mark": key[1]}
    if isinstance(result, Answer):
        row |= {name: screen.plain(getattr(result, name)) for name in _WRITTEN}
    else:
        row["error"] = screen.plain(result)
    line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    try:
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        again = "answers that were paid are in the cache: free some space, and run the same command again"
        raise ConfigError(f"cannot write {file.name!s}: {error.strerror}; {again}", file=str(file.name)) from None
