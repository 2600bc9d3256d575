"""Tokenizer of each model family, and the tokens that its provider adds to messages. One row per family.

The numbers were measured on recorded usage. Where the real vocabulary is not published, the row names the closest one,
and `token_counter.py` corrects it. tiktoken's own loader would download vocabularies, so LiteLLM's files are read.
"""

from __future__ import annotations

import binascii
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.records import Message
from testronaut_llm.support.paths import data_file

if TYPE_CHECKING:
    from tiktoken import Encoding

_SLICE = 50_000  # characters encoded at once: tiktoken panics on a run of a million spaces
_CHARACTERS_PER_TOKEN = 3.6  # of English and code, if LiteLLM ships no vocabulary file
_CACHED_TEXTS = 32  # of a call's candidates most share a tokenizer

_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _CONTRACTION + "|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _CONTRACTION + "|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCABULARIES = {  # LiteLLM's file, and how text is split before it is looked up
    "o200k": ("fb374d419588a4632f3f557e76b4b70aebbca790", _O200K),
    "cl100k": ("9b5ad71b2ce5302211f9c61530b329a4922fc6a4", _CL100K),
    "p50k": ("ec7223a39ce59f226a68acc30dc1af2788490e15", _CL100K),
}


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

    def framing(self, messages: Sequence[Message], reasoning: bool) -> int:
        """Returns the tokens that the provider adds to the texts of a prompt."""
        roles = [message.role for message in messages]
        added = self.start + self.thinking * reasoning + (0 if "system" in roles else self.own_system)
        if not self.system_turn:
            roles = [role for role in roles if role != "system"]
            if roles and roles[-1] == "assistant":
                roles.pop()  # the beginning of the answer, not an earlier turn
        return added + self.turn * len(roles) + self.answered * roles.count("assistant")


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
    file, pattern = VOCABULARIES[name]
    path = data_file("litellm", f"litellm_core_utils/tokenizers/{file}")
    if path is None:
        return None
    from tiktoken import Encoding

    words = path.read_bytes().split()  # a token and its rank by turns; `map` halves the time of a loop
    ranks = dict(zip(map(binascii.a2b_base64, words[::2]), map(int, words[1::2]), strict=True))
    pattern = pattern.replace(r"\p{N}{1,3}", r"\p{N}") if digits else pattern
    return Encoding(name=vocabulary, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


_OPENAI = Family(
    name="openai", pattern=r"/(gpt-|chatgpt-)", vocabulary="o200k", trust="exact", schema_start=5, schema_slope=0.95
)
_CLAUDE = Family(
    name="claude-5",
    pattern=r"claude-",
    vocabulary="p50k",
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
    replace(_OPENAI, name="openai-embedding", pattern=r"/(text-embedding-|ada$)", vocabulary="cl100k", start=0, turn=0),
    replace(_OPENAI, name="openai-reasoning", pattern=_REASONING, start=2, answered=2),
    Family(name="gpt-oss", pattern=r"gpt-oss", vocabulary="o200k", start=63),
    replace(_OPENAI, name="openai-cl100k", pattern=r"/(gpt-4|gpt-3\.?5)(?!o|\.\d)", vocabulary="cl100k"),
    _OPENAI,
    replace(
        _CLAUDE, name="claude", pattern=_CLAUDE_4, slope=1.02, start=4, thinking=29, schema_start=75, schema_slope=2.0
    ),
    _CLAUDE,
    Family(name="gemma", pattern=r"gemma-?\d", vocabulary="o200k-digits", start=4, turn=5),
    Family(name="gemini", pattern=r"gemini", vocabulary="o200k-digits", start=0, turn=1),
    Family(name="llama", pattern=r"llama-?[3-9]", vocabulary="cl100k", start=5, turn=5),
    Family(name="qwen", pattern=r"/qw[eq]", vocabulary="cl100k-digits", start=5, turn=5),
    Family(name="deepseek", pattern=r"deepseek", vocabulary="cl100k-digits", trust="guess", start=1, turn=1),
    Family(name="smollm-gguf", pattern=r"^embedded/smollm", vocabulary="p50k-digits", start=4, turn=5, own_system=21),
    Family(name="smollm", pattern=r"smollm", vocabulary="p50k-digits", start=4, turn=5),
)
OTHER = Family(name="", pattern="", vocabulary="p50k-digits", trust="guess", start=2, turn=3)


def family_of(model: ModelConfig) -> Family:
    """Returns the family of a model, by its name, or for an Azure deployment by its `base_model`."""
    return _family_of(model.provider, model.base_model or model.name)


@functools.lru_cache(maxsize=1024)
def _family_of(provider: str, model: str) -> Family:
    name = f"{provider}/{model.lower().rpartition('/')[2].removeprefix('ft:')}"
    unknown = _OPENAI if provider == "azure" else OTHER  # a deployment with a name of its own is most likely OpenAI's
    return next((family for family in FAMILIES if re.search(family.pattern, name)), unknown)


def memory_key(model: ModelConfig, family: Family) -> str:
    """Returns the key under which observations of this model are kept.

    A cloud model shares them with its family at the same provider. A local model has a chat template of its own.
    """
    if family.name and not provider_of(model).local:
        return f"{model.provider}:{family.name}"
    stem = (model.base_model or model.name).lower().rpartition("/")[2].partition(":")[0]
    return f"{model.provider}:{stem}"
