"""Shared by several commands: options, reading and writing their files, and a manager that reports its cost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.errors import ConfigError, InvalidRequestError, LLMError
from testronaut_llm.records import Answer
from testronaut_llm.support.money import usd
from testronaut_llm.support.summary import append_summary
from testronaut_llm.support.text import decoded, parse_json, read_utf8

if TYPE_CHECKING:
    from testronaut_llm.prompts import Prompt

_CONFIG = "The llm.yaml to use (default: TESTRONAUT_LLM_CONFIG, the nearest upwards, the user's)."
_CACHE = "`use` stored answers, `refresh` them, turn the cache `off`, or use it `only`."
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help=_CONFIG)]
PromptFile = Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from this file.")]
SchemaFile = Annotated[Path | None, typer.Option("--schema", help="A file with the JSON Schema of the answer.")]
CacheOption = Annotated[str | None, typer.Option("--cache", help=_CACHE)]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Same as --cache off.")]
Params = Annotated[bool, typer.Option("--params", help="Also show which settings a model does not support (slower).")]
Summary = Annotated[
    Path | None, typer.Option("--summary", help="Add calls, hits, cost and failures to this file, as Markdown.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]

Key = tuple[int, str]
"""Identifies a line of `run --batch`: its number, and a digest of the prompt and the options that change its answer."""
_WRITTEN = ("text", "parsed", "model", "provider_model", "cached", "cost", "saved", "usage", "finish_reason", "latency")


@contextmanager
def asking(config: Path | None, summary: Path | None = None, title: str = "") -> Iterator[testronaut_llm.LLMManager]:
    """Opens a manager. If its calls fail or are interrupted, the message includes their cost.

    Their summary is added to the file `summary`. Raises ConfigError if it cannot be written.
    """
    if summary is not None:
        try:
            summary.open("a").close()
        except OSError as error:
            raise ConfigError(f"cannot write {summary}: {error.strerror}", file=str(summary)) from None
    failed: dict[str, int] = {}
    with testronaut_llm.LLMManager(config) as llm:
        try:
            yield llm
        except BaseException as error:
            failed = {getattr(error, "code", type(error).__name__): 1}
            if llm.session.cost or llm.session.unpriced:
                # The notes of a KeyboardInterrupt are not printed.
                say = screen.note if isinstance(error, KeyboardInterrupt) else error.add_note
                say(f"this run cost {bill(llm)}")
            raise
        finally:
            if summary is not None:
                done = llm.session
                failures, cost = done.failures or failed, bill(llm)
                try:
                    append_summary(summary, title, calls=done.calls, hits=done.hits, cost=cost, failures=failures)
                except OSError as error:
                    screen.note(f"cannot write {summary}: {error.strerror}")


def settings_of(config: Path | None) -> testronaut_llm.LLMConfig:
    """Returns the configuration in force. Raises ConfigError if it is wrong."""
    from testronaut_llm.config.source import ConfigSource

    return ConfigSource.find(config).current()


def bill(llm: testronaut_llm.LLMManager) -> str:
    """Returns the cost of the manager's calls: `$0.0012 (saved $0.03)`."""
    session = llm.session
    unpriced = f" + {session.unpriced} of unknown price" if session.unpriced else ""
    return usd(session.cost) + unpriced + (f" (saved {usd(session.saved)})" if session.saved > 0 else "")


def age(older_than: str) -> float:
    """Returns the seconds of `--older-than`. Raises ConfigError if it is not a duration."""
    from testronaut_llm.config.sections import seconds

    try:
        return seconds(older_than)
    except ValueError as error:
        raise ConfigError(f"--older-than is {older_than!r}; {error}") from None


def read_schema(file: Path | None) -> Any:
    """Returns the JSON Schema in a file, None without a file. Raises ConfigError if it is not one."""
    if file is None:
        return None
    try:
        schema = parse_json(read_utf8(file))
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}", file=str(file)) from None
    if not isinstance(schema, dict):
        raise ConfigError(f"{file} holds {type(schema).__name__}; expected a JSON Schema object", file=str(file))
    return schema


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """Returns the argument, stdin for `-`, or the text of the file. Raises LLMError: not exactly one."""
    if (prompt is None) == (file is None):
        raise InvalidRequestError("give the prompt as an argument, as - for stdin, or with --file; exactly one of them")
    if file is not None:
        return read_utf8(file)
    if prompt != "-":
        return str(prompt)
    try:
        return decoded(sys.stdin.buffer.read(), "stdin")
    except (OSError, AttributeError) as error:  # a closed stdin is None
        raise ConfigError(f"cannot read stdin: {getattr(error, 'strerror', None) or 'it is closed'}") from None


def prompts_of(file: Path) -> Iterator[tuple[int, str, Prompt]]:
    """Yields (line number, line, prompt) for each line that is not blank. Raises ConfigError, which names the line."""
    try:
        with file.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                line = decoded(raw, str(file), first_line=number).strip()
                if line:
                    yield number, line, prompt_of(f"{file}:{number}", line)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", file=str(file)) from None


def prompt_of(where: str, line: str) -> Prompt:
    """Returns the prompt of one line: a string, messages, or an object with a `prompt`. Raises ConfigError."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON: {error}") from None
    value = value.get("prompt") if isinstance(value, dict) else value
    if isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value)):
        return value
    raise ConfigError(f'{where} holds no prompt; expected a string, messages, or {{"prompt": ...}}')


def keyed(prompts: Path, salt: str) -> Iterator[tuple[Key, Prompt]]:
    """Yields each prompt of a file with its key. Raises ConfigError if a line holds no prompt."""
    for number, line, prompt in prompts_of(prompts):
        yield (number, hashlib.sha256(f"{salt}\n{line}".encode()).hexdigest()[:16]), prompt


def read_answers(out: Path) -> tuple[set[Key], int]:
    """Returns the keys that earlier runs answered, and the length of the whole lines: a crash may cut the last one."""
    done, end = set[Key](), 0
    if not out.is_file():
        return done, end
    try:
        with out.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    row = json.loads(line)
                    key = int(row["line"]), str(row["mark"])
                    end += len(line)
                    if "error" not in row:
                        done.add(key)
    except OSError as error:
        raise ConfigError(f"cannot use {out}: {error.strerror}", file=str(out)) from None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
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
    """Adds the line of one result. Raises ConfigError if it cannot be written."""
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
        again = "paid answers are in the cache: free some disk space, and run the same command again"
        raise ConfigError(f"cannot write {file.name}: {error.strerror}; {again}", file=str(file.name)) from None


def write_file(file: Path, text: str) -> None:
    """Writes a file, all of it or nothing, and says so on stderr. Raises ConfigError: it cannot be written."""
    from testronaut_llm.support.paths import write_atomically

    try:
        if file.exists() and not file.is_file():  # /dev/stdout must not be replaced
            file.write_text(text, "utf-8")
        else:
            write_atomically(file, text, mode=None if file.exists() else 0o644)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}", file=str(file)) from None
    screen.note(f"wrote {file}")
