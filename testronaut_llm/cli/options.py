"""Shared by several commands: options, reading and writing their files, and a manager that reports its cost."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.errors import ConfigError, InvalidRequestError
from testronaut_llm.support.text import decoded, few, parse_json, read_utf8, usd
from testronaut_llm.telemetry.log import append_summary

if TYPE_CHECKING:
    from testronaut_llm.prompts import Prompt

_CONFIG = "The llm.yaml to use (default: TESTRONAUT_LLM_CONFIG, the nearest upwards, the user's)."
_CACHE = "`use` stored answers, `refresh` them, turn the cache `off`, or use it `only`."
_SUMMARY = "Add calls, hits, cost and failures to this file, as Markdown."

TaskName = Annotated[str, typer.Argument(help="A task of llm.yaml, such as cli_analysis.")]
PromptText = Annotated[str | None, typer.Argument(help="The prompt; - reads it from stdin.")]
PromptFile = Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from this file.")]
SchemaFile = Annotated[Path | None, typer.Option("--schema", help="A file with the JSON Schema of the answer.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="Ask this model instead of the task's.")]
MaxCost = Annotated[str | None, typer.Option(help="Most that the command may cost, in USD.")]
CacheOption = Annotated[str | None, typer.Option("--cache", help=_CACHE)]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Same as --cache off.")]
Summary = Annotated[Path | None, typer.Option("--summary", help=_SUMMARY)]
Params = Annotated[bool, typer.Option("--params", help="Also show which settings a model does not support (slower).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help=_CONFIG)]
OlderThan = Annotated[str | None, typer.Option(help="Only those unused or stored for longer than this, such as 30d.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


@contextmanager
def asking(config: Path | None, summary: Path | None = None, title: str = "") -> Iterator[testronaut_llm.LLMManager]:
    """Opens a manager. If its calls fail or are interrupted, the message includes their cost.

    Their summary is added to the file `summary`. Raises ConfigError if it cannot be written.
    """
    if summary is not None:
        with file_errors("write", summary):
            summary.open("a").close()
    failed: dict[str, int] = {}
    with testronaut_llm.LLMManager(config) as llm:
        try:
            yield llm
        except screen.CannotPrintError:  # the calls have not failed
            raise
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


@contextmanager
def file_errors(does: str, file: object, advice: str = "") -> Iterator[None]:
    """Turns an OSError into a ConfigError that says what cannot be done to the file."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot {does} {file}: {error.strerror}{advice}", file=str(file)) from None


def cache_mode(cache: str | None, no_cache: bool) -> Any:
    """Returns the cache mode of both options. Raises InvalidRequestError if they contradict each other."""
    if no_cache and cache not in (None, "off"):
        raise InvalidRequestError(f"--no-cache and --cache {cache} were given together; expected one of them")
    return "off" if no_cache else cache


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


def prompts_of(file: Path) -> Iterator[tuple[int, str, Any]]:
    """Yields (line number, line, prompt) for each line that is not blank.

    At the end of the file, raises a ConfigError that names the lines that hold no prompt.
    """
    problems: list[str] = []
    with file_errors("read", file), file.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            try:
                line = decoded(raw, str(file), first_line=number).strip()
                if line:
                    yield number, line, prompt_of(f"{file}:{number}", line)
            except ConfigError as error:
                problems.append(str(error))
    if problems:
        raise ConfigError(few(problems, "\n  "))


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


def write_file(file: Path, text: str) -> None:
    """Writes a file, all of it or nothing, and says so on stderr. Raises ConfigError: it cannot be written."""
    from testronaut_llm.support.paths import write_atomically

    with file_errors("write", file):
        if file.exists() and not file.is_file():  # /dev/stdout must not be replaced
            file.write_text(text, "utf-8")
        else:
            write_atomically(file, text, mode=None if file.exists() else 0o644)
    screen.note(f"wrote {file}")
