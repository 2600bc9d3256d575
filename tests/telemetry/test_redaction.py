"""Secrets are removed from every text, in any encoding; prose is unchanged."""

from __future__ import annotations

import base64
import json
import string
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testronaut_llm.telemetry.redaction import MASK, Redactor

SECRETS = ("canary???plain>>>1234", "canary/+Key=Value \"x\\y&z'9é", "canary\U0001f600%41\\nx&lt;12")
ESCAPES: dict[str, Callable[[str], str]] = {
    "raw": str,
    "lower case": str.lower,
    "url path": quote,
    "url query": lambda s: quote(s, safe=""),
    "url form": quote_plus,
    "url lower": lambda s: quote(s, safe="").lower(),
    "json": json.dumps,
    "json unicode": lambda s: json.dumps(s, ensure_ascii=False),
    "json slashes": lambda s: json.dumps(s).replace("/", "\\/"),
    "repr": repr,
    "after a backslash": lambda s: "\\" + s,
}
PACKED: dict[str, Callable[[str], str]] = {
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64 url": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "basic": lambda s: base64.b64encode(f"u:{s}".encode()).decode(),
}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("outer", ESCAPES)
def test_a_known_secret_is_masked_in_the_forms_that_servers_echo(outer: str, secret: str) -> None:
    redactor = Redactor()
    redactor.add(secret)
    for inner, encode in {**ESCAPES, **({} if "lower" in outer else PACKED)}.items():
        before, mask, after = redactor.redact(f"before {ESCAPES[outer](encode(secret))} after").partition(MASK)
        assert (before[:7], mask, after[-6:]) == ("before ", MASK, " after"), inner
        assert "canary" not in f"{before}{after}".lower(), inner
        assert len(f"{before}{after}") <= len("before  after") + 24, "only quotes and braces around the secret may stay"


@settings(max_examples=30)
@given(st.text(string.ascii_letters + string.digits + "-_./+=~", min_size=8, max_size=80), st.integers(0, 9))
def test_no_key_survives_base64(secret: str, shift: int) -> None:
    redactor = Redactor()
    redactor.add(secret)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(b"x" * shift + secret.encode() + b"end").decode()
        assert redactor.redact(encoded) == MASK


def test_all_secrets_are_masked_and_short_ones_only_where_they_stand_alone() -> None:
    redactor, broken = Redactor(), b"secret\xff\xfevalue".decode("utf-8", "surrogateescape")
    for secret in ("firstSecretValue", "able", "firstSecretValue", "  ", broken):
        redactor.add(secret)
    shown = redactor.redact(f"firstSecretValue, password able, a table, disabled, un-able <{broken}>")
    assert shown == f"{MASK}, password {MASK}, a table, disabled, un-able <{MASK}>"
    assert [redactor.knows(f"a {word}SecretValue") for word in ("first", "third")] == [True, False]
    assert repr(redactor) == "Redactor(3 secrets)"


K = "a1ZkQ7vR2mXp9LdW4sYc8TbN6hGj3FeU5oKi0ArE"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"Incorrect API key provided: sk-ant-api03-{K}-AA.", f"Incorrect API key provided: {MASK}."),
        ("Authorization: Bearer abc.def-123456", f"Authorization: Bearer {MASK}"),
        ("{'authorization': 'Bearer abc-123456'}", f"{{'authorization': 'Bearer {MASK}'}}"),
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {MASK}"),
        ('"x-api-key": "0123456789abcdef"', f'"x-api-key": "{MASK}"'),
        ("https://host.example/?a=1&api-key=zz&sig=q%2F", f"https://host.example/?a=1&api-key={MASK}&sig={MASK}"),
        ("https://user:hunter2@host.example/", f"https://user:{MASK}@host.example/"),
    ],
)
def test_a_key_that_was_never_added_is_known_by_its_shape_or_its_name(text: str, masked: str) -> None:
    """Keys of more kinds are in the prompts of `tests/call/test_secrets.py`, which are searched by the same table."""
    assert Redactor().redact(text) == masked
    assert Redactor().redact(masked) == masked


PROSE = [
    "Set OPENAI_API_KEY, or write `api_key_env: OPENAI_API_KEY` in llm.yaml; run: export OPENAI_API_KEY='your key'",
    "none of AZURE_API_KEY, AZURE_OPENAI_API_KEY is set; api_key_command: pass show openai",
    "The bearer of bad news used basic authentication; a bearer token is required. Authorization: required",
    "sk-learn-compatible-estimators and risk-averse-1234567890-decisions; task-based-approach",
    "the tokens=4096 of key=value pairs, passwords: none, api key: missing, secret: none",
    "see https://docs.example/page?tab=keys#token and http://127.0.0.1:11434/v1; user@host.example",
    "eyJust a word; AKIA is a prefix; ghp_short; hf_models; gsk_x; xoxo-hugs",
]


def test_prose_is_left_alone() -> None:
    redactor = Redactor()
    redactor.add("canarySecretValue")
    assert [redactor.redact(text) for text in PROSE] == PROSE


@pytest.mark.parametrize("piece", ["sk-", "bearer ", "key: ", "eyJ-", "://", "?akey", "x", "a.b-c/", "://a:"])
def test_hostile_texts_do_not_hang_it(piece: str) -> None:
    """A body made to slow the patterns takes time in proportion to its length (the suite's time-out ends it)."""
    redactor = Redactor()
    redactor.add(SECRETS[1])
    text = piece * (300_000 // len(piece))
    assert redactor.redact(text) == text
