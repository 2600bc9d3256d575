"""A configuration that follows its file: an edit takes effect at the next call, a broken one does not."""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

from testronaut_llm.config.draft import MODEL_VARIABLE
from testronaut_llm.config.file import FoundConfig, find_config, parse_config, read_text
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.config.trust import record_of
from testronaut_llm.config.variables import variables_in
from testronaut_llm.errors import ConfigError
from testronaut_llm.telemetry.log import logger

_FileStamp = tuple[int, ...] | None
_Stamp = tuple[_FileStamp, _FileStamp, int]

_CLOCK_TICK_NS = 2_000_000_000  # of the coarsest file systems


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
        self._tell_ignored()

    @classmethod
    def find(cls, argument: str | Path | None = None) -> ConfigSource:
        """Returns the source of the file that rules, read once. Raises ConfigError: there is none, or it has faults."""
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
        if self.found is None:
            return self._config
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
                self._tell_ignored()
            except ConfigError as error:
                if (known := (hash(text), str(error))) not in self._warned:
                    self._warned.add(known)
                    kept = "the last valid one"
                    logger().warning("config_broken", file=error.file, line=error.line, error=str(error), kept=kept)
        settled = stamp[0] is None or time.time_ns() - stamp[0][0] > _CLOCK_TICK_NS
        self._stamp = (*stamp[:2], read[1]) if settled else None

    def _tell_ignored(self) -> None:
        for section in sorted({re.split(r"\W", text)[0] for text in self._config.ignored}):
            mend = "this llm.yaml is not trusted; run: testronaut-llm trust"
            logger().warning(section + "_ignored", file=str(self._config.path), fault=mend)

    def _environment(self) -> int:
        """A hash, so that no value of a variable is kept."""
        return hash(tuple(map(os.environ.get, (MODEL_VARIABLE, *self._variables))))

    def _trust_stamp(self) -> _FileStamp:
        return _stamp_of(self._record) if self._record else None


def _stamp_of(path: Path) -> _FileStamp:
    try:
        seen = os.stat(path)  # noqa: PTH116 - at every call
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size, seen.st_ino
