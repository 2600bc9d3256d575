"""Each provider's error becomes one of our errors, by its status and code before its words."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from testronaut_llm import errors
from testronaut_llm.gateway.evidence import examine
from testronaut_llm.gateway.provider_errors import Complaint, complaint_of, error_in, error_rows, kind_of, retry_after


def _kind(status: int | None, body: Any) -> type[errors.LLMError]:
    return kind_of(status, complaint_of(body if isinstance(body, str) else json.dumps(body)))


STATUSES: dict[int, type[errors.LLMError]] = {
    **dict.fromkeys((400, 405, 422, 501), errors.InvalidRequestError),
    **dict.fromkeys((408, 504), errors.LLMTimeoutError),
    **dict.fromkeys((409, 500, 502, 599), errors.ServerError),
    **dict.fromkeys((503, 529), errors.OverloadedError),
    401: errors.AuthenticationError,
    402: errors.QuotaExceededError,
    403: errors.PermissionDeniedError,
    404: errors.ModelNotFoundError,
    413: errors.ContextWindowError,
    429: errors.RateLimitError,
}


def test_a_body_that_says_nothing_leaves_the_status() -> None:
    for body in ("", "null", "[]", "[1]", "{}", "<html><b>oops</b></html>", '{"error": 3}', "{cut"):
        assert {status: _kind(status, body) for status in STATUSES} == STATUSES, body
    assert _kind(None, "") is errors.ServerError


def test_codes_then_words_then_the_status() -> None:
    for status, error, expected in (
        # A word in the text never overrules a status that says what happened (P19).
        (400, {"message": "timeout must be a number"}, errors.InvalidRequestError),
        (429, {"message": "maximum context length exceeded for this minute"}, errors.RateLimitError),
        (500, {"code": 400, "message": "x"}, errors.ServerError),
        # The body's own code is more exact than the status, at any place in the body.
        (403, {"code": "model_not_found"}, errors.PermissionDeniedError),
        (400, {"code": "model_not_found"}, errors.ModelNotFoundError),
        (500, {"type": "org_spend_limit_reached"}, errors.ServerError),
        (400, {"code": 7, "innererror": {"code": "ResponsibleAIPolicyViolation"}}, errors.ContentFilteredError),
        # In the middle of a stream only the body can say what happened (P33), and so inside a 200.
        (None, {"type": "rate_limit_error"}, errors.RateLimitError),
        (None, {"type": "invalid_request_error"}, errors.InvalidRequestError),
        (None, "prompt is too long: 9 tokens > 8 maximum", errors.ContextWindowError),
        # There, too, a code or wording that is known comes before a number.
        (200, {"code": 400, "message": "maximum context length is 8 tokens"}, errors.ContextWindowError),
        (200, {"code": 429, "message": "prompt is too long for this minute"}, errors.RateLimitError),
        # Words count under their own statuses only.
        (401, {"message": "Content Exists Risk"}, errors.AuthenticationError),
        # Gemini: a minute's quota and none left sound the same.
        (400, {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}, errors.AuthenticationError),
        (429, {"code": 429, "message": "You exceeded your current quota, please check your plan and billing details.",
               "status": "RESOURCE_EXHAUSTED"}, errors.RateLimitError),
    ):  # fmt: skip
        assert _kind(status, {"error": error}) is expected, error


NUMBERED = [
    {"error": {"message": "x", "code": "N"}},
    {"error": {"message": "Provider returned error", "metadata": {"raw": {"error": {"code": "N"}}}}},
    {"error": {"message": "x"}, "code": "N"},
    {"error": True, "message": "x", "statusCode": "N"},
    {"error": "N", "message": "x"},
    {"code": "N", "message": "x", "data": None},
    {"detail": "x", "status": "N"},
]


@pytest.mark.parametrize("form", NUMBERED, ids=json.dumps)
def test_a_number_inside_a_200_is_judged_as_that_status(form: dict[str, Any]) -> None:
    def read(number: Any) -> tuple[dict[str, Any], Complaint]:
        document = json.loads(json.dumps(form).replace('"N"', json.dumps(number)))
        return document, complaint_of(json.dumps(document), document)

    for status, spelled in ((402, 402), (404, "404"), (429, 429.0), (503, "503")):
        document, complaint = read(spelled)
        assert error_in(document, []) is document
        assert complaint.status == status
        assert kind_of(200, complaint) is kind_of(None, complaint) is STATUSES[status]
    for other in (True, None, 20012, 399, "4000", [402], 402.5):  # a server's own code
        assert read(other)[1].status == 0, other


def test_an_answer_is_no_error_and_the_first_error_of_a_stream_counts() -> None:
    for document in (
        {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "error": None},
        {"choices": [], "base_resp": {"status_code": 0, "status_msg": ""}},
        {"choices": [], "code": 429, "message": "kept by a proxy"},
        {"model": "m", "message": {"role": "assistant", "content": "404"}, "done": True},
        {"object": "chat.completion.chunk", "choices": [], "status": "completed"},
        {"message": "hello", "code": 200},
        {"error": {}},
    ):
        assert examine(json.dumps(document)).error is None, document
    events = [{"choices": []}, {"error": {"message": "no"}}, {"error": "a later one"}]
    assert examine("\n".join(map(json.dumps, events))).error == events[1]


def test_errors_of_minimax_and_openrouter_are_found() -> None:
    """MiniMax reports in `base_resp`; OpenRouter quotes the provider behind it, as JSON or as text."""
    body: dict[str, Any] = {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}, "choices": None}
    assert error_in(body, []) is body
    assert kind_of(200, complaint_of("", body)) is errors.QuotaExceededError
    inner = json.dumps({"error": {"code": 400, "message": "User location is not supported for the API use."}})
    for raw in (inner, "User location is not supported for the API use.", json.loads(inner)):
        body = {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}}
        complaint = complaint_of(json.dumps(body))
        assert kind_of(200, complaint) is kind_of(400, complaint) is errors.PermissionDeniedError
        assert complaint.words == "User location is not supported for the API use."
    raw = json.dumps({"error": {"code": "json_validate_failed", "message": "m", "failed_generation": {"a": 1}}})
    assert complaint_of(json.dumps({"error": {"message": "x", "metadata": {"raw": raw}}})).generated == '{"a": 1}'
    assert complaint_of('{"error": {"message": "m", "metadata": {"raw": null}}}').words == "m"


INNER = json.dumps({"error": {"code": "context_length_exceeded", "message": "too long"}})


def test_words_and_codes_are_found_and_short() -> None:
    for text, found in {
        '[{"error": {"message": "in a list"}}]': ("in a list", ()),
        '{"message": "no error field"}': ("no error field", ()),
        '{"error": {"detail": [{"loc": ["body"]}]}}': ('[{"loc": ["body"]}]', ()),
        '{"error": "[not json"}': ("[not json", ()),
        json.dumps({"error": INNER}): ("too long", ("context_length_exceeded",)),
        json.dumps({"error": {"type": "outer", "message": INNER}}): ("too long", ("outer", "context_length_exceeded")),
        "<html><body>  <h1>502</h1>\n Bad   Gateway</body></html>": ("502 Bad Gateway", ()),
        json.dumps({"error": {"message": "x" * 9999}}): ("x" * 1000, ()),
        "x" * 9999: ("x" * 300, ()),
    }.items():
        complaint = complaint_of(text)
        assert (complaint.words, complaint.codes) == found


def test_a_deep_body_is_no_crash() -> None:
    assert complaint_of('{"error":' * 50_000).codes == ()
    inner: dict[str, Any] = {"message": "deep"}
    for _ in range(sys.getrecursionlimit()):
        inner = {"message": "m", "metadata": {"raw": inner}}
    assert complaint_of("", inner).words


def test_each_form_of_waiting_is_seconds() -> None:
    """`retry-after-ms` wins; Google asks for a wait in the body."""
    now = 1_445_412_470.0  # Wed, 21 Oct 2015 07:27:50 GMT
    for headers, seconds in (
        ({"retry-after-ms": "300", "retry-after": "9"}, 0.3),
        ({"retry-after-ms": "soon", "retry-after": " 2.5 "}, 2.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 10.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 99 Oct 2015 07:27:00 GMT"}, None),
        ({"retry-after": "inf"}, None),
    ):
        assert retry_after(headers, now) == seconds, headers
    for delay, seconds in (("26s", 26.0), ("0.5s", 0.5), ("soon", None), (3, None)):
        body = {"error": {"code": 429, "details": ["x", {"@type": "RetryInfo", "retryDelay": delay}]}}
        assert complaint_of(json.dumps(body)).wait == seconds


SEEN: dict[str, list[tuple[str, int, Any, str]]] = yaml.safe_load(
    (Path(__file__).parents[1] / "support" / "data" / "error_messages.yaml").read_text("utf-8")
)


def test_known_words_and_codes_decide() -> None:
    for server, status, words, expected in (*SEEN["words"], *SEEN["similar"]):
        openai = {"error": {"message": words, "type": "invalid_request_error", "code": None}}
        for body in (openai, {"error": words}, {"object": "error", "message": words}, {"detail": words}):
            assert _kind(status, body).__name__ == expected, (server, body)
    for server, status, error, expected in SEEN["codes"]:
        assert _kind(status, {"error": {"message": "no words", **error}}).__name__ == expected, (server, error)


def test_each_wording_has_a_server_and_an_example() -> None:
    for group in error_rows()["words"]:
        said = [words for _, _, words, expected in SEEN["words"] if expected == group["error"]]
        for pattern, server in group["seen_on"].items():
            assert server
            assert any(re.search(pattern, words, re.IGNORECASE) for words in said), pattern
