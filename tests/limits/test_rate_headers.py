"""How long the headers of an answer say that the next request should wait."""

from __future__ import annotations

import pytest

from testronaut_llm.limits.headers import pause_of

NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z


def openai(kind: str, remaining: str, reset: str, limit: str = "") -> dict[str, str]:
    found = {f"x-ratelimit-remaining-{kind}": remaining, f"x-ratelimit-reset-{kind}": reset}
    return {**found, f"x-ratelimit-limit-{kind}": limit} if limit else found


def anthropic(kind: str, remaining: str, reset: str, limit: str) -> dict[str, str]:
    facts = {"remaining": remaining, "reset": reset, "limit": limit}
    return {f"anthropic-ratelimit-{kind}-{name}": value for name, value in facts.items()}


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({}, 0.0),
        ({"content-type": "application/json"}, 0.0),
        (openai("requests", "499", "120ms"), 0.0),
        (openai("requests", "0", "6m0s"), 360.0),
        (openai("requests", "0", "20ms"), 0.02),
        (openai("requests", "0", "1d2h3m4.5s"), 93784.5),
        (openai("requests", "0", "17"), 17.0),
        (openai("requests", "0", str(NOW + 8)), 8.0),
        (openai("requests", "0", str(NOW - 8)), 0.0),
        (openai("tokens", "1000", "30s"), 0.0),
        (openai("tokens", "0", "30s", "60000"), 30.0),
        (openai("tokens", "100", "30s"), 30.0),
        (openai("tokens", "500", "60s", "60500"), 0.5),  # it fills up evenly, and 500 are wanting
        (openai("tokens", "10", "30s", "20"), 30.0),  # never enough: wait for all there is
        ({**openai("requests", "0", "3s"), **openai("tokens", "0", "5s")}, 5.0),
        (anthropic("requests", "0", "2026-09-21T14:13:30Z", "50"), 10.0),
        (anthropic("input-tokens", "0", "2026-09-21T14:13:21+00:00", "50000"), 1.0),
        (anthropic("output-tokens", "0", "2026-09-21T14:13:22", "8000"), 2.0),
        (anthropic("tokens", "0", "2026-09-21T13:00:00Z", "8000"), 0.0),
        (openai("requests", "-1", "1s"), 1.0),
        (openai("requests", "few", "9s"), 0.0),
        (openai("requests", "nan", "9s"), 0.0),
        (openai("requests", "0", "soon"), 0.0),
        (openai("requests", "0", ""), 0.0),
        (openai("requests", "0", "inf"), 0.0),
        ({"x-ratelimit-remaining-requests": "0"}, 0.0),
    ],
)
def test_the_headers_say_how_long(headers: dict[str, str], pause: float) -> None:
    """For a request of 1,000 tokens; what nobody can read asks for no pause."""
    assert pause_of(headers, 1000, NOW) == pytest.approx(pause, abs=1e-3)
