"""Which `llm.yaml` is used, what it says, and how a running process follows it.

One file is used, nothing is merged: the argument, `TESTRONAUT_LLM_CONFIG`, the nearest `llm.yaml`
upwards from the working folder, the user's own, the packaged default. An edit takes effect at the next
call; a broken one does not.
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

from testronaut_llm.config.draft import MODEL_VARIABLE
from testronaut_llm.config.faults import Fault, Source, error_of
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.config.secrets import variables_in
from testronaut_llm.config.trust import is_trusted, record_of
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import config_dir, user_path
from testronaut_llm.support.text import read_utf8
from testronaut_llm.telemetry.log import logger

FILE_NAME = "llm.yaml"
PATH_VARIABLE = "TESTRONAUT_LLM_CONFIG"
PACKAGED = Path(__file__).parent.with_name(FILE_NAME)
SCHEMA_FILE = PACKAGED.with_name("llm.schema.json")
_CLOCK_TICK_NS = 2_000_000_000  # of the coarsest file systems

_FileStamp = tuple[int, ...] | None
_Stamp = tuple[_FileStamp, _FileStamp, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundConfig:
    """A configuration file, and how it was found; only one found `upwards` has to be trusted first."""

    path: Path
    how: Literal["argument", "environment", "upwards", "user", "packaged"]


def find_config(argument: str | Path | None = None) -> FoundConfig:
    """Returns the file that is used. Raises ConfigError: a path was given outright and leads to no file."""
    if argument is not None:
        return FoundConfig(path=_given(argument, "the argument"), how="argument")
    if given := os.environ.get(PATH_VARIABLE):
        return FoundConfig(path=_given(given, PATH_VARIABLE), how="environment")
    with suppress(OSError):  # of a working folder that is gone
        folder = Path.cwd()
        for file in (parent / FILE_NAME for parent in (folder, *folder.parents)):
            if os.path.isfile(file):  # noqa: PTH113 - which takes a folder closed to us as one without the file
                return FoundConfig(path=file, how="upwards")
    own = config_dir() / FILE_NAME
    return FoundConfig(path=own, how="user") if own.is_file() else FoundConfig(path=PACKAGED, how="packaged")


def _given(text: str | Path, by: str) -> Path:
    path = user_path(text).absolute()
    if path.is_file():
        return path
    what = "is a folder" if path.is_dir() else "is no file"
    raise ConfigError(f"{path}, given by {by}, {what}: `testronaut-llm init` writes a new one", file=str(path))


def load_config(path: str | Path | None = None) -> LLMConfig:
    """Returns what a file says, or the one that is used; a path given outright is trusted.

    Raises:
        ConfigError: with every problem, its line, and the closest valid name.
    """
    found = find_config(path)
    return parse_config(read_text(found.path), found)


def read_text(path: Path) -> str:
    """Returns a configuration file's text. Raises ConfigError: it cannot be read, is far too large, or is not UTF-8."""
    from testronaut_llm.config.yaml_reader import MAX_BYTES

    return read_utf8(path, most=MAX_BYTES)


def parse_config(text: str, found: FoundConfig) -> LLMConfig:
    """Returns what the text of a found file says. Raises ConfigError: every problem, its line, the closest name."""
    from testronaut_llm.config.yaml_reader import read_yaml

    document = read_yaml(text, str(found.path))
    if document.data is None:
        words = "is empty: run `testronaut-llm init`, or write `tasks:`"
        raise error_of([*document.faults, Fault((), words, 1)], str(found.path))
    source = Source(
        path=found.path,
        trusted=found.how != "upwards" or is_trusted(found.path, text),
        line_of=document.line_of,
        faults=document.faults,
    )
    return LLMConfig.model_validate(document.data, context=source)


class ConfigSource:
    """Hands out the configuration as it is now; safe for threads.

    Attributes:
        found: the file and how it was found; None when the configuration was made in Python.
    """

    def __init__(self, config: LLMConfig, found: FoundConfig | None = None, text: str | None = None) -> None:
        self.found = found
        self._config = config
        self._lock = threading.Lock()
        self._record = record_of(found.path) if found and found.how == "upwards" else None
        self._variables = variables_in(text or "")
        self._read: tuple[str | None, int, _FileStamp] = (text, self._environment(), self._trust_stamp())
        self._stamp: _Stamp | None = None
        self._warned: set[tuple[int, str]] = set()
        self._warn_ignored()

    @classmethod
    def find(cls, argument: str | Path | None = None) -> ConfigSource:
        """Returns the source of the file that is used, read once. Raises ConfigError: there is none, or it is wrong."""
        found = find_config(argument)
        text = read_text(found.path)
        return cls(parse_config(text, found), found, text)

    @classmethod
    def of(cls, config: LLMConfig) -> ConfigSource:
        """Returns a source of a configuration made in Python; it never changes.

        Raises:
            ConfigError: it has a budget, and nothing says whose money that is.
        """
        own = any(task.budget is not None and task.budget.spans_calls for task in config.tasks.values())
        if (config.budget is not None or own) and config.budget_scope() is None:
            raise ConfigError(
                "config= has a budget without `scope`; say whose money it is: budget={'scope': 'my-app', ...}"
            )
        return cls(config)

    @property
    def path(self) -> Path | None:
        """The file, or None."""
        return self.found.path if self.found else self._config.path

    @property
    def last(self) -> LLMConfig:
        """The configuration as it was last looked at."""
        return self._config

    def current(self) -> LLMConfig:
        """Returns the newest configuration that is valid. While nothing changed this costs one `stat`.

        A file that is broken, or gone, leaves the last good one in place and logs one warning.
        """
        if self.found is not None:
            stamp = (_stamp_of(self.found.path), self._trust_stamp(), self._environment())
            if stamp != self._stamp:
                with self._lock:
                    self._reload(self.found, stamp)
        return self._config

    def _reload(self, found: FoundConfig, stamp: _Stamp) -> None:
        """A stamp younger than a tick of the file system's clock could miss the next edit: it is not kept."""
        text = None
        with suppress(ConfigError):
            text = read_text(found.path)
        self._variables = variables_in(text or "")
        read = (text, self._environment(), self._trust_stamp())
        if read != self._read:
            self._read = read
            try:
                self._config = parse_config(read_text(found.path) if text is None else text, found)
                self._warn_ignored()
            except ConfigError as error:
                if (known := (hash(text), str(error))) not in self._warned:
                    self._warned.add(known)
                    kept = "the last valid one"
                    logger().warning("config_broken", file=error.file, line=error.line, error=str(error), kept=kept)
        settled = stamp[0] is None or time.time_ns() - stamp[0][0] > _CLOCK_TICK_NS
        self._stamp = (*stamp[:2], read[1]) if settled else None

    def _warn_ignored(self) -> None:
        for section in sorted({re.split(r"\W", text)[0] for text in self._config.ignored}):
            fault = "this llm.yaml is not trusted; run: testronaut-llm trust"
            logger().warning(section + "_ignored", file=str(self._config.path), fault=fault)

    def _environment(self) -> int:
        """Returns a hash, so that no value of a variable is kept."""
        return hash(tuple(map(os.environ.get, (MODEL_VARIABLE, *self._variables))))

    def _trust_stamp(self) -> _FileStamp:
        return _stamp_of(self._record) if self._record else None


def _stamp_of(path: Path) -> _FileStamp:
    try:
        seen = os.stat(path)  # noqa: PTH116 - at every call
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size, seen.st_ino
