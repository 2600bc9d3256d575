"""`run --batch`: a file of prompts in, a file of answers out; the same command again asks only what is missing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import bill, prompts_of
from testronaut_llm.errors import ConfigError, LLMError
from testronaut_llm.local.download import Progress
from testronaut_llm.prompts import Prompt
from testronaut_llm.records import Answer

Key = tuple[int, str]
_WRITTEN = ("text", "parsed", "model", "provider_model", "cached", "cost", "saved", "usage", "finish_reason", "latency")
_SAME_ANSWER = ("cache", "max_cost")
"""Options that do not change the answer."""


def run_batch(
    llm: testronaut_llm.LLMManager, task: str, prompts: Path, out: Path, *, concurrency: int, options: Mapping[str, Any]
) -> int:
    """Asks each prompt that has no answer in `out` yet, and returns how many failed. Raises LLMError: a wrong file."""
    shared = {"task": task, **{name: value for name, value in options.items() if name not in _SAME_ANSWER}}
    with BatchFile(prompts, out, shared) as batch:
        if batch.answered:
            screen.note(f"{out}: {batch.answered:,} of {batch.total:,} are answered already")
        try:
            with screen.progress(str(out), "prompts") as show:

                def take(place: int, result: Answer[Any] | LLMError) -> None:
                    batch.write(place, result)
                    words = f"{batch.failed:,} failed, {bill(llm)}" if batch.failed else bill(llm)
                    show(Progress(done=batch.answered + batch.failed, total=batch.total, note=words))

                llm.answer_each(task, batch.missing(), take, concurrency=concurrency, **options)
        except KeyboardInterrupt:
            screen.note(f"stopped with {batch.state}; {bill(llm)}; run the same command again to continue")
            raise
        again = "; run the same command again to ask those that failed" if batch.failed else ""
        screen.note(f"{out}: {batch.state}; {bill(llm)}{again}")
        return batch.failed


class BatchFile:
    """A file of prompts, one JSON a line, and the file to which one line an answer is appended.

    An answer's line has the number of its prompt's line, and a digest of the prompt and of `shared`, which holds
    whatever else changes an answer. Raises ConfigError: a line holds no prompt, or a file cannot be used.
    """

    def __init__(self, prompts: Path, out: Path, shared: Mapping[str, Any]) -> None:
        self._prompts, self._out = prompts, out
        self._shared = json.dumps(shared, sort_keys=True, default=str)
        self._asked: dict[int, Key] = {}
        self.total = self.answered = self.failed = 0
        try:
            self._done, end = self._read() if out.is_file() else (set[Key](), 0)
            for key, _ in self._keys():
                self.total += 1
                self.answered += key in self._done
            self._file = os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT, 0o600), "wb")
            self._file.truncate(end)  # a crash may have cut the last line
            self._file.seek(end)
        except OSError as error:
            raise ConfigError(f"cannot use {out}: {error.strerror}", file=str(out)) from None

    @property
    def state(self) -> str:
        """`2 of 3 answered, 1 failed`."""
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.answered:,} of {self.total:,} answered{failed}"

    def missing(self) -> Iterator[Prompt]:
        """Yields the prompts that have no answer yet."""
        missing = ((key, prompt) for key, prompt in self._keys() if key not in self._done)
        for place, (key, prompt) in enumerate(missing):
            self._asked[place] = key
            yield prompt

    def write(self, place: int, result: Answer[Any] | LLMError) -> None:
        """Appends the result of the prompt that `missing` yielded at this place. Raises ConfigError: it cannot."""
        number, digest = self._asked.pop(place)
        row: dict[str, Any] = {"line": number, "mark": digest}
        if isinstance(result, Answer):
            row |= {name: screen.plain(getattr(result, name)) for name in _WRITTEN}
            self.answered += 1
        else:
            row["error"] = screen.plain(result)
            self.failed += 1
        try:
            self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            self._file.flush()
        except OSError as error:
            again = "answers that were paid are in the cache: free some space, and run the same command again"
            raise ConfigError(f"cannot write {self._out}: {error.strerror}; {again}", file=str(self._out)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        with suppress(OSError):  # each line was flushed; what failed then fails again
            self._file.close()

    def _keys(self) -> Iterator[tuple[Key, Prompt]]:
        for number, line, prompt in prompts_of(self._prompts):
            yield (number, hashlib.sha256(f"{self._shared}\n{line}".encode()).hexdigest()[:16]), prompt

    def _read(self) -> tuple[set[Key], int]:
        """Returns the keys that earlier runs answered, and the bytes of the whole lines."""
        done, end = set(), 0
        with self._out.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                    key = int(row["line"]), str(row["mark"])
                except (ValueError, TypeError, KeyError, RecursionError):
                    raise ConfigError(f"{self._out} is not a file of answers; name another one with --out") from None
                end += len(line)
                if "error" not in row:
                    done.add(key)
        return done, end
