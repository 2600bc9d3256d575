"""Removes reasoning that a chat template leaves before the answer.

A server that does not know the template returns it as text. Some templates put the opening tag into the prompt, so
that the text begins inside the reasoning and has only the closing tag.
"""

import json
from collections.abc import Iterable, Mapping

TAGS = {
    "<think>": "</think>",  # DeepSeek, Qwen, GLM, MiniMax, Hunyuan, Phi, Nemotron, Granite, ERNIE, Olmo
    "<thinking>": "</thinking>",  # Apriel
    "<thought>": "</thought>",  # EXAONE
    "<reasoning>": "</reasoning>",  # Reka
    "<seed:think>": "</seed:think>",  # Seed-OSS
    "<longcat_think>": "</longcat_think>",  # LongCat
    "[THINK]": "[/THINK]",  # Magistral
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A and R
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "<|channel>thought": "<channel|>",  # Gemma
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",  # gpt-oss
    "◁think▷": "◁/think▷",  # Kimi
}
"""Opening and closing tags."""
_BEGINNINGS = frozenset({tag[:length] for tag in TAGS for length in range(len(tag))})
"""Texts that more text can make an opening tag."""


class ReasoningFilter:
    """Removes the reasoning of one answer that arrives in pieces.

    Reasoning without an opening tag is passed on: only its end shows what it is.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        self._tags, self._held = tags, ""
        self._closing = ""  # of the reasoning that has begun
        self._through = self._found = False

    def take(self, piece: str) -> str:
        """Returns the text that can be passed on now."""
        if self._through:
            return piece
        self._held += piece
        while True:
            if self._closing:
                reasoning, closed, rest = self._held.partition(self._closing)
                if not closed:
                    self._held = reasoning[-len(self._closing) :]
                    return ""
                self._held, self._closing = rest, ""
            start = self._held.lstrip()
            if start in _BEGINNINGS:
                return ""
            opening = next(filter(start.startswith, self._tags), None)
            if opening is None:
                return self.end()
            self._held, self._closing, self._found = start.removeprefix(opening), self._tags[opening], True

    def end(self) -> str:
        """Returns the text not yet passed on, unless it is reasoning without an end."""
        held, self._held, self._through = self._held, "", True
        if self._closing:
            return ""
        return held.lstrip() if self._found else held


def tags_for(prompts: Iterable[str]) -> dict[str, str]:
    """Returns the tags that do not occur in the prompt: the answer may be about those, or was asked to use them."""
    spoken, tags = "\n".join(prompts), dict(TAGS)
    for opening, closing in TAGS.items():
        if closing in spoken:
            del tags[opening]
    return tags


def split(text: str, tags: Mapping[str, str] = TAGS) -> tuple[str, str]:
    """Returns the reasoning before an answer, with its tags, and the answer."""
    pieces = ReasoningFilter(tags)
    answer = pieces.take(text) + pieces.end()
    after = []
    for opening, closing in tags.items():
        before, closed, rest = answer.partition(closing)
        if closed and opening not in before:
            after.append(rest)
    if after:
        try:
            json.loads(answer)  # JSON may hold a tag in a string
        except (ValueError, RecursionError):
            answer = max(after, key=len).lstrip()
    return text[: len(text) - len(answer)], answer
