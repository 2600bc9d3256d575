"""Which tokenizer a model has, and what its provider adds around each message: rows, found by the model's name.

The numbers were measured on recorded usage. Where the real vocabulary is not published, the row
names the one that comes closest, and what is left is learned from the usage that answers report.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.money.encodings import Tokenizer
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.records import Message

Trust = Literal["exact", "close", "guess"]

_O200K, _O200K_DIGITS = Tokenizer("o200k_base"), Tokenizer("o200k_base", single_digits=True)
_CL100K, _CL100K_DIGITS = Tokenizer("cl100k_base"), Tokenizer("cl100k_base", single_digits=True)
_P50K, _P50K_DIGITS = Tokenizer("p50k_base"), Tokenizer("p50k_base", single_digits=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that count alike."""

    name: str  # key under which what is learned is kept
    pattern: str  # what its provider and name look like, such as `openai/gpt-6-luna`
    tokenizer: Tokenizer  # the nearest one on disk
    trust: Trust = "close"  # how near it is; `exact` is hardly corrected by what is learned
    slope: float = 1.0  # tokens charged for each token counted
    start: int = 3  # tokens added to each prompt
    turn: int = 4  # tokens added to each message
    answered: int = 0  # tokens added to each earlier answer of the model, besides `turn`
    system_turn: bool = True  # does a system message count as a message?
    own_system: int = 0  # tokens of the system message that its template adds where there is none
    thinking: int = 0  # tokens that asking for reasoning adds
    schema_start: int = 0  # the same as `start` and `slope` for a JSON Schema on the wire
    schema_slope: float = 0.0

    @property
    def margin(self) -> float:
        """By what factor a prompt may well be longer than estimated."""
        return {"exact": 1.02, "close": 1.15, "guess": 1.3}[self.trust]

    def framing(self, messages: Sequence[Message], reasoning: bool) -> int:
        """Tokens of a prompt that are no text of ours."""
        turns = [m for m in messages if self.system_turn or m.role != "system"]
        if not self.system_turn and turns and turns[-1].role == "assistant":
            turns.pop()  # the beginning of the answer, not a turn before it
        answered = sum(m.role == "assistant" for m in turns)
        added = self.own_system if all(m.role != "system" for m in messages) else 0
        return self.start + added + self.turn * len(turns) + self.answered * answered + self.thinking * reasoning


_OPENAI = Family(
    name="openai", pattern=r"/(gpt-|chatgpt-)", tokenizer=_O200K, trust="exact", schema_start=5, schema_slope=0.95
)
_CLAUDE = Family(
    name="claude-5",
    pattern=r"claude-",
    tokenizer=_P50K,
    slope=1.22,
    start=6,
    turn=3,
    system_turn=False,
    schema_start=90,
    schema_slope=2.4,
)
_REASONING = r"/(gpt-([5-9]|\d\d)|o\d|codex)"
_CLAUDE_4 = r"claude-(instant|v?[1-4]\b|(opus|sonnet|haiku)-4(?![-.][7-9]\b))"

FAMILIES = (
    replace(_OPENAI, name="openai-embedding", pattern=r"/(text-embedding-|ada$)", tokenizer=_CL100K, start=0, turn=0),
    replace(_OPENAI, name="openai-reasoning", pattern=_REASONING, start=2, answered=2),
    Family(name="gpt-oss", pattern=r"gpt-oss", tokenizer=_O200K, start=63),
    replace(_OPENAI, name="openai-cl100k", pattern=r"/(gpt-4|gpt-3\.?5)(?!o|\.\d)", tokenizer=_CL100K),
    _OPENAI,
    replace(
        _CLAUDE, name="claude", pattern=_CLAUDE_4, slope=1.02, start=4, thinking=29, schema_start=75, schema_slope=2.0
    ),
    _CLAUDE,
    Family(name="gemma", pattern=r"gemma-?\d", tokenizer=_O200K_DIGITS, start=4, turn=5),
    Family(name="gemini", pattern=r"gemini", tokenizer=_O200K_DIGITS, start=0, turn=1),
    Family(name="llama", pattern=r"llama-?[3-9]", tokenizer=_CL100K, start=5, turn=5),
    Family(name="qwen", pattern=r"/qw[eq]", tokenizer=_CL100K_DIGITS, start=5, turn=5),
    Family(name="deepseek", pattern=r"deepseek", tokenizer=_CL100K_DIGITS, trust="guess", start=1, turn=1),
    Family(name="smollm-gguf", pattern=r"^embedded/smollm", tokenizer=_P50K_DIGITS, start=4, turn=5, own_system=21),
    Family(name="smollm", pattern=r"smollm", tokenizer=_P50K_DIGITS, start=4, turn=5),
)

OTHER = Family(name="", pattern="", tokenizer=_P50K_DIGITS, trust="guess", start=2, turn=3)


def family_of(model: ModelConfig) -> Family:
    """The family of a model: by the name of what answers, which for an Azure deployment is its `base_model`."""
    return _family_of(model.provider, model.base_model or model.name)


@functools.lru_cache(maxsize=1024)
def _family_of(provider: str, model: str) -> Family:
    name = model.lower().rpartition("/")[2].removeprefix("ft:")
    for family in FAMILIES:
        if re.search(family.pattern, f"{provider}/{name}"):
            return family
    return _OPENAI if provider == "azure" else OTHER  # a deployment with a name of its own is OpenAI's, most likely


def memory_key(model: ModelConfig, family: Family) -> str:
    """Where what is learned of this model is kept: by provider, since each frames messages in its own way.

    Local models bring their own chat templates, so of those each is on its own.
    """
    stem = (model.base_model or model.name).lower().rpartition("/")[2].partition(":")[0]
    shared = family.name and not provider_of(model).local
    return f"{model.provider}:{family.name if shared else stem}"
