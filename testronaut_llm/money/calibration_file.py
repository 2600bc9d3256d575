"""What earlier answers taught about tokens, kept on disk: a few dozen numbers a model, shared by all processes."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testronaut_llm.money.calibration import Point
from testronaut_llm.support.paths import made, write_atomically
from testronaut_llm.telemetry.log import logger

KEPT = 32
"""Observations kept of each model family, and of each task and model: enough for a median, quick to forget."""

_SERIES = 400  # of each kind; the longest unused go first
_LOCK_SECONDS = 0.1
_SAVE_SECONDS = 1.0  # between two saves of a busy process


class TokenMemory:
    """Observations by key, the newest last. A file that cannot be read or written costs accuracy, never a call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._kept: dict[str, dict[str, list[Any]]] | None = None
        self._pending: list[tuple[str, str, Any]] = []
        self._saved = -math.inf
        self._warned = False

    def prompts(self, key: str) -> Sequence[Point]:
        """What was counted and charged, of prompts to this family."""
        with self._lock:
            return tuple(self._loaded()["prompts"].get(key, ()))

    def answers(self, task: str, model: str | None = None) -> Sequence[int]:
        """Lengths in tokens of answers to this task, by this model or by any."""
        with self._lock:
            answers = self._loaded()["answers"]
            if model is not None:
                return tuple(answers.get(f"{task}\t{model}", ()))
            return tuple(n for key, series in answers.items() if key.startswith(f"{task}\t") for n in series)

    def add(self, *, key: str, point: Point | None, task: str, model: str, answer: int | None) -> None:
        """Keeps what one answer reported, None for what it did not say."""
        said = (("prompts", key, point), ("answers", f"{task}\t{model}", answer))
        new = [one for one in said if one[2] is not None]
        with self._lock:
            for one in new:
                self._remember(*one)
            self._pending = [*self._pending, *new][-2 * KEPT :]
            if time.monotonic() - self._saved >= _SAVE_SECONDS:
                self._save(wait=0)

    def save(self) -> None:
        """Writes what was not written yet."""
        with self._lock:
            if self._pending:
                self._save(wait=_LOCK_SECONDS)

    def _loaded(self) -> dict[str, dict[str, list[Any]]]:
        if self._kept is None:
            self._kept = self._read()
        return self._kept

    def _remember(self, kind: str, key: str, value: Any) -> None:
        series = self._loaded()[kind]
        series[key] = [*series.pop(key, ()), value][-KEPT:]
        while len(series) > _SERIES:
            del series[next(iter(series))]

    def _read(self) -> dict[str, dict[str, list[Any]]]:
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            prompts = {str(k): [(int(x), int(y)) for x, y in v] for k, v in stored["prompts"].items()}
            return {"prompts": prompts, "answers": {str(k): [int(n) for n in v] for k, v in stored["answers"].items()}}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._warn("token_memory_unreadable", error)
        return {"prompts": {}, "answers": {}}

    def _save(self, wait: float) -> None:
        """Adds what is pending to what other processes wrote since; a busy file is tried again next time."""
        import filelock

        self._saved = time.monotonic()
        try:
            made(self._path.parent)
            with filelock.FileLock(self._path.with_suffix(".lock"), timeout=wait):
                self._kept = self._read()
                for one in self._pending:
                    self._remember(*one)
                write_atomically(self._path, json.dumps({"version": 1, **self._kept}, separators=(",", ":")))
            self._pending = []
        except filelock.Timeout:
            return
        except OSError as error:
            self._warn("token_memory_not_saved", error)

    def _warn(self, event: str, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            logger().warning(event, file=str(self._path), fault=str(error))
