"""The tokenizer of each model family, and what its provider adds to each message: one row a family.

The numbers were measured on recorded usage. Where the real vocabulary is not published, the row names the closest
one, and `token_counter.py` learns the rest. The vocabulary files are those that LiteLLM ships; tiktoken's own loader
would download them, so it is never called.
"""

from __future__ import annotations

import base64
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

Trust = Literal["exact", "close", "guess"]

_SLICE = 50_000  # characters encoded at once: tiktoken panics on a run of a million spaces
_CHARACTERS_PER_TOKEN = 3.6  # of English and code, where LiteLLM ships no vocabulary file
_CACHED_TEXTS = 32  # of a call's candidates most share a tokenizer
_FILES = {
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "p50k_base": "ec7223a39ce59f226a68acc30dc1af2788490e15",
}
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
_ONE_DIGIT = (r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A vocabulary, and how text is split before it is looked up: numbers in threes, or digit by digit."""

    vocabulary: str
    single_digits: bool = False

    def count(self, text: str) -> int:
        """Returns the tokens of a text. Special tokens in it are plain text."""
        return _count(self, text)


@functools.lru_cache(maxsize=_CACHED_TEXTS)
def _count(tokenizer: Tokenizer, text: str) -> int:
    encoding = _encoding(tokenizer)
    if encoding is None:
        return -int(-len(text) // _CHARACTERS_PER_TOKEN)
    slices = (text[start : start + _SLICE] for start in range(0, len(text), _SLICE))
    return sum(len(encoding.encode_ordinary(piece)) for piece in slices)


@functools.cache
def _encoding(tokenizer: Tokenizer) -> Encoding | None:
    path = data_file("litellm", f"litellm_core_utils/tokenizers/{_FILES[tokenizer.vocabulary]}")
    if path is None:
        return None
    from tiktoken import Encoding

    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    pattern = _O200K if tokenizer.vocabulary == "o200k_base" else _CL100K
    pattern = pattern.replace(*_ONE_DIGIT) if tokenizer.single_digits else pattern
    return Encoding(name=tokenizer.vocabulary, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


_GPT4O, _GPT4O_DIGITS = Tokenizer("o200k_base"), Tokenizer("o200k_base", single_digits=True)
_GPT4, _GPT4_DIGITS = Tokenizer("cl100k_base"), Tokenizer("cl100k_base", single_digits=True)
_GPT3, _GPT3_DIGITS = Tokenizer("p50k_base"), Tokenizer("p50k_base", single_digits=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that count alike."""

    name: str  # key under which what is learned is kept
    pattern: str  # what its provider and name look like, such as `openai/gpt-6-luna`
    tokenizer: Tokenizer  # the nearest one on disk
    trust: Trust = "close"  # how near it is; `exact` is never corrected
    slope: float = 1.0  # tokens charged for each token counted
    start: int = 3  # tokens added to each prompt
    turn: int = 4  # tokens added to each message
    answered: int = 0  # tokens added to each earlier answer of the model, besides `turn`
    system_turn: bool = True  # True if a system message counts as a message
    own_system: int = 0  # tokens of the system message that its template adds where there is none
    thinking: int = 0  # tokens that asking for reasoning adds
    schema_start: int = 0  # the same as `start` and `slope` for a JSON Schema on the wire
    schema_slope: float = 0.0

    @property
    def margin(self) -> float:
        """Factor by which a prompt may be longer than estimated."""
        return {"exact": 1.02, "close": 1.15, "guess": 1.3}[self.trust]

    def framing(self, messages: Sequence[Message], reasoning: bool) -> int:
        """Returns the tokens that the provider adds to the texts of a prompt."""
        turns = [m for m in messages if self.system_turn or m.role != "system"]
        if not self.system_turn and turns and turns[-1].role == "assistant":
            turns.pop()  # the beginning of the answer, not a turn before it
        answered = sum(m.role == "assistant" for m in turns)
        added = self.own_system if all(m.role != "system" for m in messages) else 0
        return self.start + added + self.turn * len(turns) + self.answered * answered + self.thinking * reasoning


_OPENAI = Family(
    name="openai", pattern=r"/(gpt-|chatgpt-)", tokenizer=_GPT4O, trust="exact", schema_start=5, schema_slope=0.95
)
_CLAUDE = Family(
    name="claude-5",
    pattern=r"claude-",
    tokenizer=_GPT3,
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
    replace(_OPENAI, name="openai-embedding", pattern=r"/(text-embedding-|ada$)", tokenizer=_GPT4, start=0, turn=0),
    replace(_OPENAI, name="openai-reasoning", pattern=_REASONING, start=2, answered=2),
    Family(name="gpt-oss", pattern=r"gpt-oss", tokenizer=_GPT4O, start=63),
    replace(_OPENAI, name="openai-cl100k", pattern=r"/(gpt-4|gpt-3\.?5)(?!o|\.\d)", tokenizer=_GPT4),
    _OPENAI,
    replace(
        _CLAUDE, name="claude", pattern=_CLAUDE_4, slope=1.02, start=4, thinking=29, schema_start=75, schema_slope=2.0
    ),
    _CLAUDE,
    Family(name="gemma", pattern=r"gemma-?\d", tokenizer=_GPT4O_DIGITS, start=4, turn=5),
    Family(name="gemini", pattern=r"gemini", tokenizer=_GPT4O_DIGITS, start=0, turn=1),
    Family(name="llama", pattern=r"llama-?[3-9]", tokenizer=_GPT4, start=5, turn=5),
    Family(name="qwen", pattern=r"/qw[eq]", tokenizer=_GPT4_DIGITS, start=5, turn=5),
    Family(name="deepseek", pattern=r"deepseek", tokenizer=_GPT4_DIGITS, trust="guess", start=1, turn=1),
    Family(name="smollm-gguf", pattern=r"^embedded/smollm", tokenizer=_GPT3_DIGITS, start=4, turn=5, own_system=21),
    Family(name="smollm", pattern=r"smollm", tokenizer=_GPT3_DIGITS, start=4, turn=5),
)

OTHER = Family(name="", pattern="", tokenizer=_GPT3_DIGITS, trust="guess", start=2, turn=3)


def family_of(model: ModelConfig) -> Family:
    """Returns the family of a model, by the name of what answers: for an Azure deployment its `base_model`."""
    return _family_of(model.provider, model.base_model or model.name)


@functools.lru_cache(maxsize=1024)
def _family_of(provider: str, model: str) -> Family:
    name = model.lower().rpartition("/")[2].removeprefix("ft:")
    for family in FAMILIES:
        if re.search(family.pattern, f"{provider}/{name}"):
            return family
    return _OPENAI if provider == "azure" else OTHER  # a deployment with a name of its own is OpenAI's, most likely


def memory_key(model: ModelConfig, family: Family) -> str:
    """Returns the key under which observations of this model are kept.

    A cloud model shares them with its family at the same provider. A local model has a chat template of its own.
    """
    stem = (model.base_model or model.name).lower().rpartition("/")[2].partition(":")[0]
    shared = family.name and not provider_of(model).local
    return f"{model.provider}:{family.name if shared else stem}"
