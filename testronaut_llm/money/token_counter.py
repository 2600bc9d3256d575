"""Estimates the tokens of a call before it is sent, without a network, and learns from what answers report."""

from __future__ import annotations

import json
import math
import os
import statistics
import threading
import time
import unicodedata
from collections import defaultdict, deque
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from testronaut_llm.money.token_families import count, family_of, memory_key
from testronaut_llm.support.paths import data_dir, make_folder, write_atomically
from testronaut_llm.telemetry.log import logger

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.records import Message, Usage

KEPT = 32
"""Observations kept of each model family."""

ANSWERS_KEPT = 128
"""Lengths of answers kept of each task and model."""

ANSWER_SHARE = 8
"""Without observations, an answer is expected to use an eighth of `max_tokens`."""

# More than ever measured: 100 for a chat template, 29 for reasoning, 150 for the wrapping of a schema.
_PROMPT_OVERHEAD, _MESSAGE_OVERHEAD, _SCHEMA_OVERHEAD = 256, 16, 256
_SCHEMA_FACTOR = 2  # Anthropic writes a schema out with indentation

_LEAST_POINTS = {"exact": KEPT + 1, "close": 5, "guess": 1}  # observations before an estimate is corrected
_MARGINS = {"exact": 1.02, "close": 1.15, "guess": 1.3}  # by which a prompt may be longer than estimated
_LARGEST_FILE = 512 * 1024  # bytes; a larger file is shortened to the newest half when it is read
_ESTIMATES = 1024  # remembered until their answers arrive
_SAVE_SECONDS = 1.0  # between two writes


def fit(points: Sequence[tuple[int, int]], slope: float) -> tuple[float, float]:
    """Returns offset and slope of a line through the points, each tokens counted and tokens charged.

    It is the family's own `slope`, unless a fitted line halves the typical error. That one has the median of the slopes
    between any two points (Theil and Sen), so that a prompt with uncounted parts has no effect.
    """

    def error(line: tuple[float, float]) -> float:
        return statistics.median(abs(line[0] + line[1] * x - y) / max(y, 8) for x, y in points)

    slopes = [(d - b) / (c - a) for (a, b), (c, d) in combinations(points, 2) if a != c]
    tried = [slope, statistics.median(slopes)] if len(slopes) >= 3 else [slope]
    best = min([(statistics.median(y - one * x for x, y in points), one) for one in tried], key=error)
    return best if error(best) <= error((0.0, slope)) / 2 else (0.0, slope)


class TokenCounter:
    """Estimates tokens, and learns from reported usage. Safe for threads.

    Observations are appended to a file, at most once a second; other processes read it when they start. If the
    file cannot be read or written, estimates are less accurate and one warning is logged.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or data_dir() / "tokens.jsonl"
        self._points: defaultdict[str, deque[tuple[int, int]]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._answers: defaultdict[str, dict[str, deque[int]]] = defaultdict(dict)
        self._estimates: dict[tuple[str, int], tuple[str, int, int]] = {}
        self._lines: dict[str, tuple[float, float]] = {}
        self._lock = threading.RLock()
        self._unsaved: list[str] = []
        self._saved = -math.inf
        self._read = self._warned = False

    def estimate(
        self, model: ModelConfig, messages: Sequence[Message], schema_text: str = "", *, embedding: bool = False
    ) -> int:
        """Returns the tokens that will most likely be charged for this prompt, or for these texts to embed.

        `messages` include the system text. `schema_text` is the JSON Schema, if it is not sent as words.
        """
        family = family_of(model)
        key = memory_key(model, family) + ("+embedding" if embedding else "") + ("+schema" if schema_text else "")
        counted = sum([count(family.vocabulary, message.content) for message in messages])
        framing = 0 if embedding else family.framing(messages, reasoning=model.reasoning not in (None, "off"))
        if schema_text and family.schema_slope:
            framing += family.schema_start + round(family.schema_slope * count(family.vocabulary, schema_text))
        with self._lock:
            if not self._read:
                self._load()
            if (line := self._lines.get(key)) is None:
                points, least = self._points[key], _LEAST_POINTS["guess" if schema_text else family.trust]
                line = fit(points, family.slope) if len(points) >= least else (0.0, family.slope)
                self._lines[key] = line
            estimate = max(1, round(framing + line[0] + line[1] * counted))
            self._estimates[model.alias, estimate] = (key, counted, framing)
            if len(self._estimates) > _ESTIMATES:
                del self._estimates[next(iter(self._estimates))]
        return estimate

    def text_length(self, model: ModelConfig, text: str) -> int:
        """Returns the tokens of a text by itself, such as an answer without reported usage."""
        family = family_of(model)
        return round(family.slope * count(family.vocabulary, text))

    def cautious(self, model: ModelConfig, estimate: int) -> int:
        """Returns the estimate with the margin of the model's family added, to check if a prompt fits a window."""
        return math.ceil(estimate * _MARGINS[family_of(model).trust])

    def upper_bound(self, messages: Sequence[Message], schema_text: str = "") -> int:
        """Returns the tokens to reserve money for, which no tokenizer exceeds: each stands for at least one byte."""
        bound = _PROMPT_OVERHEAD + sum([_MESSAGE_OVERHEAD + _most_bytes(message.content) for message in messages])
        return bound + (_SCHEMA_OVERHEAD + _SCHEMA_FACTOR * _most_bytes(schema_text) if schema_text else 0)

    def answer_length(self, task: str, model: ModelConfig, max_tokens: int) -> int:
        """Returns the mean of the model's answers to the task, else of any model's, else `max_tokens` / 8."""
        with self._lock:
            if not self._read:
                self._load()
            seen = self._answers[task]
            lengths = seen.get(f"{model.provider}/{model.name}") or [length for one in seen.values() for length in one]
        if not lengths:
            return max(1, round(max_tokens / ANSWER_SHARE))
        return max(1, round(statistics.fmean([min(length, max_tokens) for length in lengths])))

    def observe(self, task: str, model: ModelConfig, estimate: int, usage: Usage) -> None:
        """Learns from an accepted answer, whose prompt had that `estimate`."""
        with self._lock:
            key, counted, framing = self._estimates.get((model.alias, estimate), ("", 0, 0))
            charged = usage.prompt_tokens - framing if key and usage.prompt_tokens > 0 else None
            if usage.estimated or (charged is None and not usage.completion_tokens):
                return
            seen = (key, counted, charged, task, f"{model.provider}/{model.name}", max(0, usage.completion_tokens))
            if not self._read:
                self._load()
            self._keep(*seen)
            self._unsaved.append(json.dumps(seen) + "\n")
            if time.monotonic() - self._saved >= _SAVE_SECONDS:
                self.close()

    def close(self) -> None:
        """Writes the observations that are not in the file yet."""
        with self._lock:
            lines, self._unsaved, self._saved = self._unsaved, [], time.monotonic()
            try:
                if lines:
                    make_folder(self._path.parent)
                    with open(self._path, "a", encoding="utf-8", opener=partial(os.open, mode=0o600)) as file:
                        file.write("".join(lines))
            except OSError as error:
                self._warn("token_memory_not_saved", error)

    def _keep(self, key: str, counted: int, charged: int | None, task: str, model: str, answer: int) -> None:
        if charged is not None:
            self._points[key].append((int(counted), int(charged)))
            self._lines.pop(key, None)
        if answer:
            self._answers[task].setdefault(model, deque(maxlen=ANSWERS_KEPT)).append(int(answer))

    def _load(self) -> None:
        """Reads the file, once. A line that is damaged, or cut by a killed process, is skipped."""
        self._read = True
        try:
            lines = self._path.read_bytes().splitlines()
            if sum(map(len, lines)) > _LARGEST_FILE:
                lines = lines[len(lines) // 2 :]
                write_atomically(self._path, b"\n".join([*lines, b""]).decode("utf-8", "replace"))
        except FileNotFoundError:
            return
        except OSError as error:
            self._warn("token_memory_unreadable", error)
            return
        for line in lines:
            try:
                self._keep(*json.loads(line))
            except (ValueError, TypeError) as error:
                self._warn("token_memory_unreadable", error)

    def _warn(self, event: str, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            logger().warning(event, file=str(self._path), error=str(error))


def _most_bytes(text: str) -> int:
    """Returns the bytes of a text, or of its NFKC form if that is longer: some tokenizers normalise first."""
    if text.isascii():
        return len(text)
    sizes = [len(one.encode("utf-8", "surrogatepass")) for one in (text, unicodedata.normalize("NFKC", text))]
    return max(sizes)
