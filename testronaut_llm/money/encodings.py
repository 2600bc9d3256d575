"""Tokenizers without a network: the vocabulary files that LiteLLM ships, read where they lie.

tiktoken's own loader downloads what it does not find in its cache folder; it is never called.
"""

from __future__ import annotations

import base64
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from testronaut_llm.support.paths import data_file

if TYPE_CHECKING:
    from tiktoken import Encoding

Vocabulary = Literal["o200k_base", "cl100k_base", "p50k_base"]

SLICE = 50_000
"""Characters encoded at once: tiktoken panics on a run of a million spaces."""

_FILES: dict[Vocabulary, str] = {
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
_CHARACTERS_PER_TOKEN = 3.6  # of English and code, where no vocabulary can be had


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A vocabulary and how text is cut before it is looked up: numbers in threes, or digit by digit."""

    vocabulary: Vocabulary
    single_digits: bool = False

    def count(self, text: str) -> int:
        """Tokens of a text. Special tokens in it are plain text."""
        encoding = _encoding(self.vocabulary, self.single_digits)
        if encoding is None:
            return -int(-len(text) // _CHARACTERS_PER_TOKEN)
        slices = (text[start : start + SLICE] for start in range(0, len(text), SLICE))
        return sum(len(encoding.encode_ordinary(piece)) for piece in slices)


@functools.cache
def _encoding(vocabulary: Vocabulary, single_digits: bool) -> Encoding | None:
    ranks = _ranks(vocabulary)
    if ranks is None:
        return None
    from tiktoken import Encoding

    pattern = _O200K if vocabulary == "o200k_base" else _CL100K
    pattern = pattern.replace(*_ONE_DIGIT) if single_digits else pattern
    return Encoding(name=vocabulary, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


@functools.cache
def _ranks(vocabulary: Vocabulary) -> dict[bytes, int] | None:
    path = data_file("litellm", f"litellm_core_utils/tokenizers/{_FILES[vocabulary]}")
    if path is None:
        return None
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}
