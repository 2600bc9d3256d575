"""What may enter a cassette: named headers, clean URLs, no account's name. All else is dropped, not searched for.

The rules run over live requests too, so that a cassette replays on another port, for another Azure
resource and with another key. Before a cassette is written, `leaks` searches it for what prompts and answers hold.
"""

from __future__ import annotations

import base64
import copy
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from testronaut_llm.telemetry.redaction import Redactor, find_keys, is_secret_name

REQUEST_HEADERS = frozenset({"content-type", "accept", "anthropic-version", "anthropic-beta"})
RESPONSE_HEADERS = frozenset(
    {"content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id", "request-id", "apim-request-id"}
)
RESPONSE_HEADER_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
REDACTED = "REDACTED"

_SECRET_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
_SHORTEST_SECRET = 8
_AZURE_HOST = re.compile(r"^[^.]+(\.openai\.azure\.com|\.cognitiveservices\.azure\.com|\.services\.ai\.azure\.com)$")
_ACCOUNT = re.compile(r"\b(org|proj)([-_])[A-Za-z0-9]{8,}")
_LEAKS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("cookie", re.compile(r"(?i)\b(?:set-)?cookie\b\"?'? *[:=]")),
    ("account id", re.compile(r"\b(?:org|proj)[-_](?!REDACTED)(?=\w*\d)[A-Za-z0-9]{10,}")),
)
_BASE64 = re.compile(r"(?m)^\s*base64: ([A-Za-z0-9+/=\s]+)$")


def allowed_response_header(name: str) -> bool:
    """True if a cassette may keep this response header."""
    return name.lower() in RESPONSE_HEADERS or name.lower().startswith(RESPONSE_HEADER_PREFIXES)


def clean_uri(uri: str) -> str:
    """The URI without port on loopback, Azure resource name, user and secrets in the query."""
    parts = urlsplit(uri)
    host = parts.hostname or ""
    if host in LOOPBACK:
        netloc = "127.0.0.1"
    else:
        netloc = _AZURE_HOST.sub(r"resource\1", host) + (f":{parts.port}" if parts.port else "")
    query = [
        (name, REDACTED if is_secret_name(name) or name.lower() in ("sig", "code") else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return urlunsplit((parts.scheme, netloc, parts.path, urlencode(query), ""))


def clean_request(request: Any) -> Any:
    """For vcrpy's `before_record_request`: a copy with allowed headers and a clean URI."""
    request = copy.copy(request)
    request.uri = clean_uri(request.uri)
    request.headers = {name: value for name, value in request.headers.items() if name.lower() in REQUEST_HEADERS}
    return request


def clean_response(response: dict[str, Any], secrets: frozenset[str] = frozenset()) -> dict[str, Any]:
    """For vcrpy's `before_record_response`, after decompression: allowed headers, no account ids, no `secrets`.

    Raises:
        ValueError: the body is compressed in a way that cannot be read, and so cannot be checked.
    """
    headers: Mapping[str, list[str]] = response["headers"]
    encoding = next((value for name, value in headers.items() if name.lower() == "content-encoding"), None)
    if encoding and encoding != ["identity"]:
        raise ValueError(f"cannot record a body of content-encoding {encoding}: ask the server for gzip")
    body = response["body"]["string"]
    return {
        **response,
        "headers": {name: values for name, values in headers.items() if allowed_response_header(name)},
        "body": {"string": clean_body(body, secrets)},
    }


def clean_body(body: bytes, secrets: frozenset[str]) -> bytes:
    """`body` without account ids and without the values in `secrets`; bytes that are no text stay as they are."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return body
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return _ACCOUNT.sub(rf"\1\2{REDACTED}", text).encode()


def secrets_in(environ: Mapping[str, str]) -> frozenset[str]:
    """The values of variables that are named like keys, but for very short ones."""
    values = (value for name, value in environ.items() if _SECRET_VARIABLE.search(name))
    return frozenset(value for value in values if len(value) >= _SHORTEST_SECRET)


def leaks(text: str, environ: Mapping[str, str]) -> list[str]:
    """What must not be in a file: keys, cookies, account ids, and the values of variables that are named like keys.

    Bodies in base64 are looked into. Values are found in any encoding. Each leak is named with its
    line, and shortened, so that a report of leaks is none.
    """
    found = [(match.start(), kind, match[0]) for kind, match in _shapes(text)]
    for block in _BASE64.finditer(text):
        inner = base64.b64decode(block[1]).decode("latin-1")
        found += [(block.start(), kind, match[0]) for kind, match in _shapes(inner)]
    shown = [(start, kind, f"{leak[:6]}...({len(leak)} characters)") for start, kind, leak in found]
    secrets = secrets_in(environ)
    for name, value in environ.items():
        known = Redactor()
        known.add(value)
        if value in secrets and known.knows(text):
            lines = text.splitlines(keepends=True)
            before = itertools.takewhile(lambda line: not known.knows(line), lines)  # noqa: B023 - used at once
            shown.append((sum(map(len, before)), "value of a variable", name))
    return [f"line {text.count(chr(10), 0, start) + 1}: {kind}: {leak}" for start, kind, leak in shown]


def _shapes(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    yield from (("secret", match) for match in find_keys(text))
    for kind, pattern in _LEAKS:
        yield from ((kind, match) for match in pattern.finditer(text))
