"""Whatever a provider does, one request goes out and one error of ours comes back, the same in every mode."""

from __future__ import annotations

import json
from dataclasses import replace

import faults
import pytest
from fault_server import FaultServer
from gateway_kit import KEY, MODES, WIRES, Attempts, request, target

from testronaut_llm import errors


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
