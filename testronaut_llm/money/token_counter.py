"""Estimates the tokens of a call before it is sent, without a network, and learns from what answers report.

The tokenizers of model families are in `token_families.toml`. tiktoken's own loader would download vocabularies, so
LiteLLM's files are read.
"""

from __future__ import annotations

import binascii
import functools
import json
import math
import os
import re
import statistics
import threading
import tomllib
import unicodedata
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.records import Message, Usage
from testronaut_llm.support.paths import data_dir, data_file, make_folder, write_atomically
from testronaut_llm.telemetry.log import logger

if TYPE_CHECKING:
    from tiktoken import Encoding

KEPT = 32
"""Observations kept of each model family."""

ANSWERS_KEPT = 128
"""Lengths of answers kept of each task and model."""

ANSWER_SHARE = 8
"""Without observations, an answer is expected to use an eighth of `max_tokens`."""

_LEAST_POINTS = 3  # observations before an estimate is corrected
_MARGINS = {"exact": 1.02, "close": 1.15, "guess": 1.3}  # by which a prompt may be longer than estimated
_LARGEST_FILE = 512 * 1024  # bytes; a larger file is shortened to the newest half when it is read
_ESTIMATES = 1024  # remembered until their answers arrive
_SLICE = 50_000  # characters encoded at once: tiktoken panics on a run of a million spaces
_CHARACTERS_PER_TOKEN = 3.6  # of English and code, if LiteLLM ships no vocabulary file
_CACHED_TEXTS = 32  # of a call's candidates most share a tokenizer
# More than ever measured: 100 for a chat template, 29 for reasoning, 150 for the wrapping of a schema.
_PROMPT_OVERHEAD, _MESSAGE_OVERHEAD, _SCHEMA_OVERHEAD = 256, 16, 256
_SCHEMA_FACTOR = 2  # Anthropic writes a schema out with indentation


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models with the same way of counting."""

    name: str  # key of the observations
    pattern: str  # pattern of provider and name, such as `openai/gpt-6-luna`
    vocabulary: str  # the nearest one on disk; `-digits` if numbers are split digit by digit, not in threes
    trust: Literal["exact", "close", "guess"] = "close"  # its accuracy; `exact` is never corrected
    slope: float = 1.0  # tokens charged for each token counted
    start: int = 3  # tokens added to each prompt
    turn: int = 4  # tokens added to each message
    answered: int = 0  # tokens added to each earlier answer of the model, besides `turn`
    system_turn: bool = True  # True if a system message counts as a message
    own_system: int = 0  # tokens of the system message that its template adds if there is none
    thinking: int = 0  # tokens that asking for reasoning adds
    schema_start: int = 0  # the same as `start` and `slope` for a JSON Schema on the wire
    schema_slope: float = 0.0

    def framing(self, messages: Sequence[Message], schema_text: str, *, reasoning: bool) -> int:
        """Returns the tokens that the provider adds to the texts of a prompt, with those of the schema."""
        roles = [message.role for message in messages]
        added = self.start + self.thinking * reasoning + (0 if "system" in roles else self.own_system)
        if schema_text and self.schema_slope:
            added += self.schema_start + round(self.schema_slope * count(self.vocabulary, schema_text))
        if not self.system_turn:
            roles = [role for role in roles if role != "system"]
            if roles and roles[-1] == "assistant":
                roles.pop()  # the beginning of the answer, not an earlier turn
        return added + self.turn * len(roles) + self.answered * roles.count("assistant")


_TABLE = tomllib.loads(resources.files(__package__).joinpath("token_families.toml").read_text("utf-8"))
VOCABULARIES: dict[str, dict[str, str]] = _TABLE["vocabularies"]
FAMILIES = tuple(Family(**row) for row in _TABLE["families"])


def family_of(model: ModelConfig) -> Family:
    """Returns the family of a model, by its name, or for an Azure deployment by its `base_model`."""
    return _family_of(model.provider, model.base_model or model.name)


@functools.lru_cache(maxsize=1024)
def _family_of(provider: str, model: str) -> Family:
    name = f"{provider}/{model.lower().rpartition('/')[2].removeprefix('ft:')}"
    return next(family for family in FAMILIES if re.search(family.pattern, name))


def memory_key(model: ModelConfig, family: Family) -> str:
    """Returns the key under which observations of this model are kept.

    A cloud model shares them with its family at the same provider. A local model has a chat template of its own.
    """
    if family.name and not provider_of(model).local:
        return f"{model.provider}:{family.name}"
    stem = (model.base_model or model.name).lower().rpartition("/")[2].partition(":")[0]
    return f"{model.provider}:{stem}"


@functools.lru_cache(maxsize=_CACHED_TEXTS)
def count(vocabulary: str, text: str) -> int:
    """Returns the tokens of a text, without the tokens of messages. Special tokens in it count as plain text."""
    encoding = _encoding(vocabulary)
    if encoding is None:
        return -int(-len(text) // _CHARACTERS_PER_TOKEN)
    tokens = 0
    for start in range(0, len(text), _SLICE):
        tokens += len(encoding.encode_ordinary(text[start : start + _SLICE]))
    return tokens


@functools.cache
def _encoding(vocabulary: str) -> Encoding | None:
    name, _, digits = vocabulary.partition("-")
    path = data_file("litellm", f"litellm_core_utils/tokenizers/{VOCABULARIES[name]['file']}")
    if path is None:
        return None
    from tiktoken import Encoding

    words = path.read_bytes().split()  # a token and its rank by turns; `map` halves the time of a loop
    ranks = dict(zip(map(binascii.a2b_base64, words[::2]), map(int, words[1::2]), strict=True))
    pattern = VOCABULARIES[name]["pattern"].replace(r"\p{N}{1,3}", r"\p{N}" if digits else r"\p{N}{1,3}")
    return Encoding(name=vocabulary, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def fit(points: Sequence[tuple[int, int]], slope: float) -> tuple[float, float]:
    """Returns offset and slope of a line through the points, each tokens counted and tokens charged.

    The slope is the median of those between any two points (Theil and Sen), so that a prompt with uncounted parts has
    no effect. If the line does not halve the typical error, the family's own `slope` stays.
    """

    def error(line: tuple[float, float]) -> float:
        return statistics.median(abs(line[0] + line[1] * x - y) / max(y, 8) for x, y in points)

    slopes = [(d - b) / (c - a) for (a, b), (c, d) in combinations(points, 2) if a != c]
    fitted = statistics.median(slopes) if len(slopes) >= 3 else slope
    line = statistics.median(y - fitted * x for x, y in points), fitted
    return line if error(line) <= error((0.0, slope)) / 2 else (0.0, slope)


class TokenCounter:
    """Estimates tokens, and learns from reported usage. Safe for threads.

    Observations are appended to a file, which other processes read when they start. If it cannot be read or written,
    estimates are less accurate and one warning is logged.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or data_dir() / "tokens.jsonl"
        self._points: defaultdict[str, deque[tuple[int, int]]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._lines: dict[str, tuple[float, float]] = {}  # through these points
        self._answers: defaultdict[str, dict[str, deque[int]]] = defaultdict(dict)
        self._estimates: dict[tuple[str, int], tuple[str, int, int]] = {}
        self._lock = threading.RLock()
        self._read = self._warned = False

    def estimate(
        self, model: ModelConfig, messages: Sequence[Message], schema_text: str = "", *, embedding: bool = False
    ) -> int:
        """Returns the tokens that will most likely be charged for this prompt, or for these texts to embed.

        `messages` include the system text. `schema_text` is the JSON Schema, if it is not sent as words.
        """
        family = family_of(model)
        key = memory_key(model, family) + ("+embedding" if embedding else "") + ("+schema" if schema_text else "")
        reasons, counted = model.reasoning not in (None, "off"), 0
        for message in messages:
            counted += count(family.vocabulary, message.content)
        framing = 0 if embedding else family.framing(messages, schema_text, reasoning=reasons)
        with self._lock:
            if not self._read:
                self._load()
            if key not in self._lines:
                learns = family.trust != "exact" or schema_text
                enough = len(self._points[key]) >= _LEAST_POINTS
                self._lines[key] = fit(self._points[key], family.slope) if learns and enough else (0.0, family.slope)
            offset, slope = self._lines[key]
            estimate = max(1, round(framing + offset + slope * counted))
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
        bound = _PROMPT_OVERHEAD
        for message in messages:
            bound += _MESSAGE_OVERHEAD + _most_bytes(message.content)
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
            try:
                make_folder(self._path.parent)
                with open(self._path, "a", encoding="utf-8", opener=functools.partial(os.open, mode=0o600)) as file:
                    file.write(json.dumps(seen) + "\n")
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
            except (ValueError, TypeError, RecursionError) as error:
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
