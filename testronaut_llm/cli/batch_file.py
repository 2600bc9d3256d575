"""The file that `run --batch` writes: a line an answer, as it comes, so that a run that broke off can go on.

While a run is under way the lines stand in the order in which they were answered; when it has gone through, they are
put into the order of the prompts. What is kept in memory is some bytes a prompt, whatever the answers.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from testronaut_llm.cli import screen
from testronaut_llm.errors import ConfigError, LLMError
from testronaut_llm.prompts import Prompt
from testronaut_llm.records import Answer
from testronaut_llm.support.text import decoded

_TOLD = ("text", "parsed", "model", "provider_model", "cached", "cost", "saved", "usage", "finish_reason", "latency")


def prompt_of(where: str, line: str) -> Prompt:
    """The prompt of one line: a string, messages, or an object with a `prompt`. Raises ConfigError: it is none."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is no JSON: {error}") from None
    value = value.get("prompt") if isinstance(value, dict) else value
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return value
    raise ConfigError(f'{where} holds no prompt; expected a string, messages, or {{"prompt": ...}}')


class BatchFile:
    """The prompts of one file, and the file of their answers.

    `prompts` is one JSON a line, blank lines passed over; an `out` that is there is gone on with. `shared` is what all
    calls share and what makes an answer another one: an answer to something else is not taken.

    Raises:
        ConfigError: a line holds no prompt, or a file cannot be used.
    """

    def __init__(self, prompts: Path, out: Path, shared: Mapping[str, Any]) -> None:
        self.prompts, self.out = prompts, out
        self._shared = json.dumps(shared, sort_keys=True, default=str)
        self._marks: array[int] = array("Q")
        self._places: array[int] = array("q")
        self.total = self.answered = self.failed = self.stale = 0
        try:
            for number, line in enumerate(self._lines(), 1):
                if line.strip():
                    prompt_of(f"{prompts}:{number}", line)
                    self.total += 1
                self._marks.append(self._mark(line))
            self._at: array[int] = array("q", [-1]) * len(self._marks)
            self._file = os.fdopen(os.open(out, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        except OSError as error:
            raise ConfigError(f"the batch cannot be run: {error}") from None
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def missing(self) -> Iterator[Prompt]:
        """The prompts that have no answer yet."""
        for number, line in enumerate(self._lines()):
            if line.strip() and self._at[number] < 0:
                self._places.append(number)
                yield prompt_of(f"{self.prompts}:{number + 1}", line)

    def write(self, place: int, result: Answer[Any] | LLMError) -> None:
        """Adds the result of the prompt that `missing` gave at this place."""
        number = self._places[place]
        row: dict[str, Any] = {"line": number + 1, "mark": f"{self._marks[number]:016x}"}
        if isinstance(result, Answer):
            row.update({name: screen.plain(getattr(result, name)) for name in _TOLD})
            self.answered += 1
        else:
            row["error"] = screen.plain(result)
            self.failed += 1
        with self._writing():
            self._at[number] = self._file.tell()
            self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            self._file.flush()

    def finish(self) -> None:
        """Puts the lines into the order of the prompts, in one step."""
        part = self.out.with_name(f".{self.out.name}.part")
        with self._writing(), part.open("wb") as ordered:
            for at in self._at:
                if at >= 0:
                    self._file.seek(at)
                    ordered.write(self._file.readline())
        part.replace(self.out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        with suppress(OSError):  # each line was flushed; what failed then fails again
            self._file.close()

    def _lines(self) -> Iterator[str]:
        with self.prompts.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield decoded(line, str(self.prompts), first_line=number)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            again = "answers that were paid are in the cache: make room, and run the same command"
            raise ConfigError(f"cannot write {self.out}: {error.strerror}; {again}", file=str(self.out)) from None

    def _mark(self, line: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self._shared}\n{line.strip()}".encode()).digest()[:8])

    def _read(self) -> None:
        """Takes what an earlier run answered; a last line that a crash cut goes."""
        at = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                self._file.truncate(at)
                break
            number = self._answered(line)
            if number is not None and self._at[number] < 0:
                self._at[number] = at
                self.answered += 1
            at += len(line)
        self._file.seek(at)

    def _answered(self, line: bytes) -> int | None:
        try:
            row = json.loads(line)
            number, mark = int(row["line"]) - 1, int(row["mark"], 16)
        except (ValueError, TypeError, KeyError):
            raise ConfigError(f"{self.out} is no file of answers; name another with --out") from None
        if "error" in row:
            return None
        known = 0 <= number < len(self._at) and mark == self._marks[number]
        self.stale += not known
        return number if known else None
