"""Whatever a provider does, one request goes out and one error of ours comes back, the same in every mode."""

from __future__ import annotations

import json
from dataclasses import replace

import faults
import pytest
from error_bodies import BY_CASE, ERRORS
from fault_server import FaultServer, Reply
from gateway_kit import KEY, MODES, WIRES, Attempts, request, target

from testronaut_llm import errors

CUT = ("reset before headers", "closed before headers", "reset in headers", "reset after headers", "cut body")
FAULTS: dict[str, tuple[Reply, type[errors.LLMError]]] = {
    **{name: (faults.BROKEN[name], errors.ConnectionFailedError) for name in CUT},
    **{name: (reply, errors.BadResponseError) for name, reply in faults.BAD_BODIES.items()},
    "withheld": (faults.good("", finish="content_filter"), errors.ContentFilteredError),
}
STREAM_FAULTS: dict[str, tuple[Reply, type[errors.LLMError]]] = {
    "cut clean": (faults.cut_stream_clean, errors.ConnectionFailedError),
    "cut unclean": (faults.cut_stream_unclean, errors.ConnectionFailedError),
    "reset": (faults.reset_in_stream, errors.ConnectionFailedError),
    "error first": (faults.error_in_stream("overloaded"), errors.OverloadedError),
    "error later": (faults.error_in_stream("overloaded", after=1), errors.OverloadedError),
    "rate limit later": (faults.error_in_stream("rate_limit", after=1), errors.RateLimitError),
}
_AS_STREAM = {"no finish": errors.ConnectionFailedError}
"""A stream that ends without a finish was cut, as far as anybody can tell."""
_LOOSE: tuple[type[errors.LLMError], ...] = (errors.BadResponseError, errors.ConnectionFailedError)
_CUT_SHAPES = {"wrong shape", "truncated json", "a list", "null", "not utf-8", "no choices", "huge", "broken gzip"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wire", WIRES)
def test_each_status_is_one_error_and_one_request(server: FaultServer, attempt: Attempts, wire: str, mode: str) -> None:
    """The class comes from status and body, whatever the wire and the mode; nothing is sent twice."""
    for case, (status, _) in ERRORS[wire.split(maxsplit=1)[0]].items():
        api = server.plan("a", faults.error(case), faults.good())
        _, reply = attempt(request(target(wire, api.url)), mode)
        assert type(reply.error) is BY_CASE[case], case
        assert (reply.error.status, reply.error.model, reply.usage) == (status, "m", None)
        assert len(api.requests) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("wire", WIRES)
def test_each_fault_is_one_error_and_one_request(
    server: FaultServer, attempt: Attempts, wire: str, fault: str, mode: str
) -> None:
    """Broken connections and bodies that are no answer never pass for one, nor are they asked again."""
    reply_of_server, expected = FAULTS[fault]
    api = server.plan("a", reply_of_server, faults.good())
    _, reply = attempt(request(target(wire, api.url)), mode)
    streaming = mode == "stream"
    if streaming and fault in _CUT_SHAPES:
        assert isinstance(reply.error, _LOOSE)
    else:
        assert type(reply.error) is (_AS_STREAM.get(fault, expected) if streaming else expected)
    assert len(api.requests) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wire", WIRES)
def test_a_number_inside_a_200_is_that_status(server: FaultServer, attempt: Attempts, wire: str, mode: str) -> None:
    """An error in place of an answer is judged by the number that it gives; after a piece of text, too."""
    numbers = {402: errors.QuotaExceededError, 404: errors.ModelNotFoundError, 429: errors.RateLimitError}
    for code, kind in numbers.items():
        body = {"type": "error", "error": {"message": "Provider returned error", "code": code}}
        streaming = mode == "stream"
        alone = faults.error_in_stream(body=body) if streaming else faults.raw(200, json.dumps(body).encode())
        api = server.plan("a", alone, faults.error_in_stream(body=body, after=1), faults.good())
        _, reply = attempt(request(target(wire, api.url)), mode)
        assert (type(reply.error), reply.error.status, len(api.requests)) == (kind, code, 1)
        if streaming:
            _, reply = attempt(request(target(wire, api.url)), mode)
            assert (type(reply.error), reply.error.status) == (kind, 200)


@pytest.mark.parametrize("fault", STREAM_FAULTS)
@pytest.mark.parametrize("wire", WIRES)
def test_a_broken_stream_is_never_an_answer(server: FaultServer, attempt: Attempts, wire: str, fault: str) -> None:
    """A stream that was cut, or that ends in an error event, is an error, though pieces came."""
    reply_of_server, expected = STREAM_FAULTS[fault]
    api = server.plan("a", reply_of_server, faults.good())
    pieces, reply = attempt(request(target(wire, api.url)), "stream")
    has_event = "cut" not in fault and fault != "reset"
    assert isinstance(reply.error, errors.ServerError if wire == "ollama" and has_event else expected)  # no code there
    if has_event:  # how much a torn connection still delivers is the kernel's affair
        assert bool(pieces) == (fault != "error first")
    assert len(api.requests) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wire", WIRES)
def test_a_refused_connection_is_a_failed_connection(
    server: FaultServer, attempt: Attempts, wire: str, mode: str
) -> None:
    """Nobody listens: the error says where."""
    url = server.refused()
    _, reply = attempt(request(target(wire, url)), mode)
    assert type(reply.error) is errors.ConnectionFailedError
    assert url in str(reply.error)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wire", WIRES)
def test_a_redirect_is_never_followed(server: FaultServer, attempt: Attempts, wire: str, mode: str) -> None:
    """Neither the prompt nor the key reaches the host that a redirect names (P02)."""
    other = server.plan("other", faults.good())
    api = server.plan("a", faults.redirect(other.url))
    _, reply = attempt(request(target(wire, api.url)), mode)
    assert type(reply.error) is errors.BadResponseError
    assert "api_base" in str(reply.error)
    assert not other.requests


@pytest.mark.parametrize("wire", WIRES)
def test_each_form_of_waiting_is_read(server: FaultServer, attempt: Attempts, wire: str) -> None:
    """Milliseconds, seconds and dates are seconds; nonsense is nothing (P04)."""
    expected = {"milliseconds": 0.3, "seconds": 2.0, "past date": 0.0, "negative": None, "no number": None}
    for form, wait in {**expected, "a day": 86400.0}.items():
        api = server.plan("a", faults.error("rate_limit", headers=faults.RETRY_AFTER[form]))
        _, reply = attempt(request(target(wire, api.url)), "whole")
        assert reply.error is not None
        assert reply.error.retry_after == wait, form


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wire", WIRES)
def test_an_error_that_echoes_the_key_does_not_show_it(
    server: FaultServer, attempt: Attempts, wire: str, mode: str
) -> None:
    """A key in the provider's words is masked in ours (P24)."""
    api = server.plan("a", faults.raw(401, f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()))
    _, reply = attempt(request(target(wire, api.url)), mode)
    assert type(reply.error) is errors.AuthenticationError
    assert KEY not in repr(reply.error)
    assert "***" in str(reply.error)
    assert reply.error.__cause__ is reply.error.__context__ is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("wire", "version"), [("azure", "2024-10-21"), ("azure v1", "v1"), ("azure v1", "preview")])
def test_a_token_is_asked_for_at_each_attempt(
    server: FaultServer, attempt: Attempts, wire: str, version: str, mode: str
) -> None:
    """Where a token stands in for a key, in a thread, since it may have to be fetched; `preview` is in the URL."""
    tokens, api = iter(("first", "second")), server.plan("a", faults.good("fine"))
    to = replace(target(wire, api.url), key=None, token_provider=lambda: next(tokens), api_version=version)
    for token in ("first", "second"):
        assert attempt(request(to), mode)[1].text == "fine"
        assert api.requests[-1].has_key("authorization", token)
        assert api.requests[-1].query == ({} if version == "v1" else {"api-version": version})
