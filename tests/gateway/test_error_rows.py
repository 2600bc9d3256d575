"""Each code and wording that a server was seen to use is one of our errors, and innocent messages are not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from testronaut_llm import errors
from testronaut_llm.gateway.provider_errors import complaint_of, error_rows, kind_of

SEEN: dict[str, list[tuple[str, int, Any, str]]] = yaml.safe_load(
    (Path(__file__).parents[1] / "support" / "data" / "error_messages.yaml").read_text("utf-8")
)
SHAPES = {
    "openai": lambda words: {"error": {"message": words, "type": "invalid_request_error", "code": None}},
    "plain": lambda words: {"error": words},
    "bare": lambda words: {"object": "error", "message": words},
    "detail": lambda words: {"detail": words},
}


def kind(status: int, body: Any) -> str:
    return kind_of(status, complaint_of(json.dumps(body))).__name__


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("table", ["words", "similar"])
def test_words_say_what_the_status_does_not(table: str, shape: str) -> None:
    """Whichever server says it, in whichever body; messages that only resemble such words are not judged by them."""
    for server, status, words, expected in SEEN[table]:
        assert kind(status, SHAPES[shape](words)) == expected, (server, words)


def test_codes_say_what_the_status_does_not() -> None:
    """A server's own code tells the error."""
    for server, status, error, expected in SEEN["codes"]:
        assert kind(status, {"error": {"message": "no words", **error}}) == expected, (server, error)


def test_each_wording_has_an_example() -> None:
    """No row stands in the table that no server's message is known for."""
    for group in error_rows()["words"]:
        said = [words for _, _, words, expected in SEEN["words"] if expected == group["error"]]
        for pattern in group["seen_on"]:
            assert any(re.search(pattern, words, re.IGNORECASE) for words in said), pattern


def test_each_row_names_its_error_and_its_server() -> None:
    """A row says where it was seen, and its error exists."""
    for table in ("codes", "words", "vague_codes"):
        for group in error_rows()[table]:
            assert issubclass(getattr(errors, group["error"]), errors.LLMError)
            assert all(group["seen_on"].values())
    for name in error_rows()["statuses"].values():
        assert issubclass(getattr(errors, name), errors.LLMError)


@pytest.mark.parametrize(
    ("status", "words", "expected"),
    [
        (404, "prompt is too long", "ModelNotFoundError"),
        (401, "Content Exists Risk", "AuthenticationError"),
        (500, "User location is not supported for the API use.", "ServerError"),
    ],
)
def test_a_wording_counts_under_its_statuses_alone(status: int, words: str, expected: str) -> None:
    """The same words under a status that says what happened change nothing."""
    assert kind(status, SHAPES["openai"](words)) == expected
