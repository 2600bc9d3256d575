"""The text of one answer, whole or in pieces: valid Unicode, without the reasoning in front of it."""

from __future__ import annotations

from testronaut_llm.gateway.model_request import EmbedRequest, Request
from testronaut_llm.support.reasoning import ReasoningFilter, split, tags_for


class AnswerText:
    """Collects what a model says to one request."""

    def __init__(self, request: Request | EmbedRequest) -> None:
        asked = request.messages if isinstance(request, Request) else ()
        self._tags = tags_for(message.content for message in asked if message.role != "assistant")
        if request.target.provider.wire == "anthropic":
            self._tags.pop("<thinking>", None)  # Claude writes that into its text
        self._filter = ReasoningFilter(self._tags)
        self._pieces: list[str] = []
        self._half = ""

    def take(self, piece: str, *, last: bool = True) -> str:
        """Takes a piece, and returns what can be handed out by now."""
        self._pieces.append(piece)
        text = self._half + piece
        end = len(text) - (not last and "\ud800" <= text[-1:] <= "\udbff")  # its other half is in the next piece
        self._half = text[end:]
        return self._filter.take(well_formed(text[:end])) + (self._filter.end() if last else "")

    def parts(self) -> tuple[str, str]:
        """Returns the reasoning and the answer."""
        return split(well_formed("".join(self._pieces)), self._tags)


def well_formed(text: str) -> str:
    """Returns a text as Unicode: two halves of a character joined, a half alone (a lone surrogate) spelled out."""
    try:
        text.encode()
    except UnicodeEncodeError:
        joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return joined.encode("utf-8", "backslashreplace").decode()
    return text
