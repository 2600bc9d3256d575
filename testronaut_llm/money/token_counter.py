"""How many tokens a call will use, known before it is sent and without a network.

Three numbers, for three uses: the estimate (to compare prices), a cautious one (to see whether the
prompt fits a window) and a bound that holds whatever the tokenizer (to reserve money).
"""

from __future__ import annotations

import hashlib
import math
import statistics
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from testronaut_llm.money.calibration import Line, Prior, fit
from testronaut_llm.money.calibration_file import KEPT, TokenMemory
from testronaut_llm.money.token_families import Family, family_of, memory_key
from testronaut_llm.support.paths import data_dir

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.records import Message, Usage

ANSWER_SHARE = 8
"""Before any answer was seen, one is expected to use an eighth of `max_tokens`."""

# Above all that was measured: 100 for a chat template, 29 for thinking, 150 for a schema's wrapping.
_PROMPT_OVERHEAD = 256
_MESSAGE_OVERHEAD = 16
_SCHEMA_OVERHEAD = 256
_SCHEMA_FACTOR = 2  # Anthropic writes a schema out with indentation

_SPREADS = {"exact": (1.0, 0.01), "close": (3.0, 0.05), "guess": (40.0, 0.25)}
_REMEMBERED = 1024
_POINTS_A_FIT = 4  # a fit takes a millisecond, and among many points one more changes little


class TokenCounter:
    """Counts, and learns from the usage that answers report."""

    def __init__(self, path: Path | None = None) -> None:
        """Opens nothing yet.

        Args:
            path: where to keep what is learned; None for `tokens.json` in the data folder.
        """
        self._memory = TokenMemory(path or data_dir() / "tokens.json")
        self._counted: OrderedDict[tuple[str, int], tuple[str, int, int]] = OrderedDict()
        self._texts: OrderedDict[tuple[object, bytes], int] = OrderedDict()
        self._lines: dict[str, Line] = {}
        self._unfitted: dict[str, int] = {}
        self._lock = threading.Lock()

    def estimate(
        self, model: ModelConfig, messages: Sequence[Message], schema_text: str = "", *, embedding: bool = False
    ) -> int:
        """Tokens that this prompt will most likely be charged.

        Args:
            model: who will count.
            messages: system text included.
            schema_text: the JSON Schema as it goes on the wire, empty where it goes as words or not at all.
            embedding: are these texts to embed, without any framing?
        """
        family = family_of(model)
        key = memory_key(model, family) + ("+embedding" if embedding else "") + ("+schema" if schema_text else "")
        counted = sum(self._count(family, message.content) for message in messages)
        framing = 0 if embedding else family.framing(messages, reasoning=model.reasoning not in (None, "off"))
        if schema_text and family.schema_slope:
            framing += family.schema_start + round(family.schema_slope * self._count(family, schema_text))
        estimate = max(1, round(framing + self._line(key, family).at(counted)))
        with self._lock:
            self._counted[model.alias, estimate] = (key, counted, framing)
            while len(self._counted) > _REMEMBERED:
                self._counted.popitem(last=False)
        return estimate

    def text_length(self, model: ModelConfig, text: str) -> int:
        """Tokens of a text by itself, such as an answer whose usage nobody reported."""
        family = family_of(model)
        return round(family.slope * self._count(family, text))

    def cautious(self, model: ModelConfig, estimate: int) -> int:
        """The same with the family's margin on top: what the prompt may well turn out to be."""
        return math.ceil(estimate * family_of(model).margin)

    def upper_bound(self, messages: Sequence[Message], schema_text: str = "") -> int:
        """Tokens that no tokenizer exceeds: each token stands for at least one byte of the text."""
        bound = _PROMPT_OVERHEAD + sum(_MESSAGE_OVERHEAD + _most_bytes(message.content) for message in messages)
        return bound + (_SCHEMA_OVERHEAD + _SCHEMA_FACTOR * _most_bytes(schema_text) if schema_text else 0)

    def answer_length(self, task: str, model: ModelConfig, max_tokens: int) -> int:
        """Tokens that the answer will most likely have, at most `max_tokens`.

        The median of what this model answered to this task before; else of what any model did; else
        an eighth of `max_tokens`.
        """
        seen = self._memory.answers(task, _identity(model)) or self._memory.answers(task)
        expected = statistics.median(seen) if seen else max_tokens / ANSWER_SHARE
        return max(1, min(max_tokens, round(expected)))

    def observe(self, task: str, model: ModelConfig, estimate: int, usage: Usage) -> None:
        """Learns from an accepted answer.

        Args:
            task: whose answer it was.
            model: who answered.
            estimate: what `estimate` returned for the prompt; others are not learned from.
            usage: as reported; a usage that is estimated itself teaches nothing.
        """
        if usage.estimated:
            return
        with self._lock:
            known = self._counted.get((model.alias, estimate))
        key, counted, framing = known or ("", 0, 0)
        point = (counted, usage.prompt_tokens - framing) if known and usage.prompt_tokens > 0 else None
        answer = usage.completion_tokens if usage.completion_tokens > 0 else None
        if point is not None or answer is not None:
            self._memory.add(key=key, point=point, task=task, model=_identity(model), answer=answer)
        if point is not None:
            with self._lock:
                self._unfitted[key] = self._unfitted.get(key, 0) + 1

    def close(self) -> None:
        """Saves what was learned in the last second."""
        self._memory.save()

    def _count(self, family: Family, text: str) -> int:
        key = (family.tokenizer, hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest())
        with self._lock:
            if key in self._texts:
                self._texts.move_to_end(key)
                return self._texts[key]
        tokens = family.tokenizer.count(text)
        with self._lock:
            self._texts[key] = tokens
            while len(self._texts) > _REMEMBERED:
                self._texts.popitem(last=False)
        return tokens

    def _line(self, key: str, family: Family) -> Line:
        """The line of a family. It is fitted anew at each of the first answers, later when all points are others."""
        points = self._memory.prompts(key)
        new_points = len(points) // _POINTS_A_FIT if len(points) < KEPT else KEPT
        with self._lock:
            if key not in self._lines or self._unfitted.get(key, 0) > new_points:
                spreads = "guess" if key.endswith("+schema") else family.trust
                self._lines[key] = fit(points, Prior(family.slope, *_SPREADS[spreads]))
                self._unfitted[key] = 0
            return self._lines[key]


def _identity(model: ModelConfig) -> str:
    return f"{model.provider}/{model.name}"


def _most_bytes(text: str) -> int:
    """Bytes of a text, or of its compatibility form where that is longer: some tokenizers normalise first."""
    plain = len(text.encode("utf-8", "surrogatepass"))
    if text.isascii():
        return plain
    return max(plain, len(unicodedata.normalize("NFKC", text).encode("utf-8", "surrogatepass")))
