"""Finds and loads `llm.yaml`, reloads it after an edit, and sets one value in it.

One file is used, files are not merged: the argument, `TESTRONAUT_LLM_CONFIG`, the nearest `llm.yaml` upwards from the
working folder, the user's own, the packaged default. A valid edit takes effect at the next call.
"""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testronaut_llm.config.draft import MODEL_VARIABLE, variables_in
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.config.problems import Problem
from testronaut_llm.config.trust import is_trusted, record_of, trust
from testronaut_llm.config.yaml_text import MAX_BYTES, edited, read_yaml
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import config_dir, user_path, write_atomically
from testronaut_llm.support.text import read_utf8
from testronaut_llm.telemetry.log import logger

FILE_NAME = "llm.yaml"
PATH_VARIABLE = "TESTRONAUT_LLM_CONFIG"
PACKAGED = Path(__file__).parent.with_name(FILE_NAME)
SCHEMA_FILE = PACKAGED.with_name("llm.schema.json")
_CLOCK_TICK_NS = 2_000_000_000  # of the coarsest file systems


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundConfig:
    """A configuration file, and how it was found; only one found `upwards` must be trusted first."""

    path: Path
    how: Literal["argument", "environment", "upwards", "user", "packaged"]


def find_config(argument: str | Path | None = None) -> FoundConfig:
    """Returns the file that is used. Raises ConfigError if a given path is not a file."""
    if argument is not None:
        return FoundConfig(path=_given(argument, "the argument"), how="argument")
    if given := os.environ.get(PATH_VARIABLE):
        return FoundConfig(path=_given(given, PATH_VARIABLE), how="environment")
    with suppress(OSError):  # the working folder was deleted
        folder = Path.cwd()
        for file in (parent / FILE_NAME for parent in (folder, *folder.parents)):
            if os.path.isfile(file):
                return FoundConfig(path=file, how="upwards")
    own = config_dir() / FILE_NAME
    return FoundConfig(path=own, how="user") if os.path.isfile(own) else FoundConfig(path=PACKAGED, how="packaged")


def _given(text: str | Path, by: str) -> Path:
    path = user_path(text).absolute()
    if os.path.isfile(path):
        return path
    what = "is a folder" if os.path.isdir(path) else "is not a file"
    raise ConfigError(f"{path}, given by {by}, {what}: `testronaut-llm init` writes a new one", file=str(path))


def load_config(path: str | Path | None = None) -> LLMConfig:
    """Returns the configuration in use. Raises ConfigError with every problem, its line and the closest valid name."""
    found = find_config(path)
    return parse_config(read_text(found.path), found)


def read_text(path: Path) -> str:
    """Returns a configuration file's text. Raises ConfigError if unreadable, too large, or not UTF-8."""
    return read_utf8(path, most=MAX_BYTES)


def parse_config(text: str, found: FoundConfig) -> LLMConfig:
    """Returns the configuration in the text of a file. Raises ConfigError as `load_config`."""
    document = read_yaml(text, found.path)
    document.trusted = found.how != "upwards" or is_trusted(found.path, text)
    if document.data is None:
        raise document.error([Problem((), "is empty: run `testronaut-llm init`, or write `tasks:`", 1)])
    return LLMConfig.model_validate(document.data, context=document)


def set_value(path: str | Path, dotted_key: str, yaml_text: str) -> LLMConfig:
    """Replaces one value in a file, and returns the new configuration. A trusted file stays trusted.

    Raises ConfigError, and does not change the file, if the result is not valid or `edited` raises.
    """
    found = find_config(path)
    text = read_text(found.path)
    new = edited(text, dotted_key, yaml_text, found.path)
    config = parse_config(new, found)
    known = is_trusted(found.path, text)
    if read_text(found.path) != text:
        raise ConfigError(f"{found.path} was changed by another program meanwhile; try again", file=str(found.path))
    try:
        write_atomically(found.path, new)
    except OSError as error:
        raise ConfigError(f"cannot write {found.path}: {error.strerror}", file=str(found.path)) from None
    if known:
        trust(found.path)
    return config


class ConfigSource:
    """The current configuration, reloaded after edits. Safe for threads. `last` is from the last check."""

    def __init__(self, config: LLMConfig, found: FoundConfig | None = None, text: str | None = None) -> None:
        self.found, self.last = found, config
        self._lock = threading.Lock()
        self._record = record_of(found.path) if found and found.how == "upwards" else None
        self._variables = variables_in(text or "")
        self._read = (text, _stamp_of(self._record), self._environment())
        self._seen: object = None
        self._warn_ignored()

    @classmethod
    def find(cls, argument: str | Path | None = None) -> ConfigSource:
        """Returns the source of the file in use. Raises ConfigError if there is none, or it is wrong."""
        found = find_config(argument)
        text = read_text(found.path)
        return cls(parse_config(text, found), found, text)

    @classmethod
    def of(cls, config: LLMConfig) -> ConfigSource:
        """Returns a source that never changes. Raises ConfigError if it has a budget without a scope."""
        if not isinstance(config, LLMConfig):
            raise ConfigError(f"config= is a {type(config).__name__}; expected an LLMConfig")
        own = any(task.budget is not None and task.budget.spans_calls for task in config.tasks.values())
        if (config.budget is not None or own) and config.budget_scope() is None:
            raise ConfigError("config= has a budget without `scope`; write budget={'scope': 'my-app', ...}")
        return cls(config)

    @property
    def path(self) -> Path | None:
        """The file, or None."""
        return self.found.path if self.found else self.last.path

    def current(self) -> LLMConfig:
        """Returns the newest valid configuration. Costs one `stat` if the file has not changed.

        If the file is invalid or deleted, the last valid one stays in use, with one warning.
        """
        if self.found is not None:
            file, record = _stamp_of(self.found.path), _stamp_of(self._record)
            if (file, record, self._environment()) != self._seen:
                with self._lock:
                    self._reload(self.found, record)
                    # A stamp younger than a tick of the file system's clock could miss the next edit.
                    settled = file is None or time.time_ns() - file[0] > _CLOCK_TICK_NS
                    self._seen = (file, *self._read[1:]) if settled else None
        return self.last

    def _reload(self, found: FoundConfig, record: tuple[int, ...] | None) -> None:
        text = None
        with suppress(ConfigError):
            text = read_text(found.path)
        self._variables = variables_in(text or "")
        if (read := (text, record, self._environment())) == self._read:
            return
        self._read = read
        try:
            self.last = parse_config(read_text(found.path) if text is None else text, found)
            self._warn_ignored()
        except ConfigError as error:
            facts = {"file": error.file, "line": error.line, "error": str(error), "kept": "the last valid one"}
            logger().warning("config_broken", **facts)

    def _warn_ignored(self) -> None:
        for section in sorted({re.split(r"\W", text)[0] for text in self.last.ignored}):
            problem = "this llm.yaml is not trusted; run: testronaut-llm trust"
            logger().warning(section + "_ignored", file=str(self.last.path), error=problem)

    def _environment(self) -> int:
        """Returns a hash of the variables, so that their values are not kept."""
        return hash(tuple(map(os.environ.get, (MODEL_VARIABLE, *self._variables))))


def _stamp_of(path: Path | None) -> tuple[int, ...] | None:
    try:
        seen = os.stat(path) if path else None  # noqa: PTH116 - at every call
    except OSError:
        return None
    return (seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size, seen.st_ino) if seen else None
