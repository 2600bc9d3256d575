"""Cleans requests and responses for a cassette, and live requests to match it: headers, URLs, account names."""

import base64
import copy
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from testronaut_llm.telemetry.redaction import SECRET_ENDS, Redactor, find_keys, is_secret_name

REQUEST_HEADERS = frozenset({"content-type", "accept", "anthropic-version", "anthropic-beta"})
RESPONSE_HEADERS = frozenset(
    {"content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id", "request-id", "apim-request-id"}
)
RESPONSE_HEADER_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
REDACTED = "REDACTED"

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
    """Returns the URI without a port on loopback, the Azure resource's name, a user, and secrets in the query."""
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
    """Returns a copy with allowed headers and a clean URI, for vcrpy's `before_record_request`."""
    request = copy.copy(request)
    request.uri = clean_uri(request.uri)
    request.headers = {name: value for name, value in request.headers.items() if name.lower() in REQUEST_HEADERS}
    return request


def clean_response(response: dict[str, Any], secrets: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Returns a response with allowed headers, and without account ids and `secrets`, for `before_record_response`.

    Raises ValueError if the body is still compressed, so that it cannot be checked.
    """
    headers: Mapping[str, list[str]] = response["headers"]
    encoding = next((value for name, value in headers.items() if name.lower() == "content-encoding"), None)
    if encoding and encoding != ["identity"]:
        raise ValueError(f"cannot record a body of content-encoding {encoding}: ask the server for gzip")
    body = response["body"]["string"]
    with suppress(UnicodeDecodeError):  # bytes that are not text do not change
        text = body.decode()
        for secret in secrets:
            text = text.replace(secret, REDACTED)
        body = _ACCOUNT.sub(rf"\1\2{REDACTED}", text).encode()
    allowed = {name: values for name, values in headers.items() if allowed_response_header(name)}
    return {**response, "headers": allowed, "body": {"string": body}}


def secrets_in(environ: Mapping[str, str]) -> frozenset[str]:
    """Returns the values of variables with such words anywhere in their names, without very short ones."""
    values = (value for name, value in environ.items() if any(word in name.upper() for word in SECRET_ENDS))
    return frozenset(value for value in values if len(value) >= _SHORTEST_SECRET)


def leaks(text: str, environ: Mapping[str, str]) -> list[str]:
    """Returns the secrets in a file, shortened: keys, cookies, account ids, values of variables named like keys."""
    found = []
    blocks = [(block.start(), base64.b64decode(block[1]).decode("latin-1")) for block in _BASE64.finditer(text)]
    for offset, part in [(None, text), *blocks]:
        matches = [("secret", match) for _, match in find_keys(part)]
        matches += [(kind, match) for kind, pattern in _LEAKS for match in pattern.finditer(part)]
        for kind, match in matches:
            line = text.count("\n", 0, match.start() if offset is None else offset) + 1
            found.append(f"line {line}: {kind}: {match[0][:6]}...({len(match[0])} characters)")
    secrets, lines = secrets_in(environ), text.splitlines()
    for name in [name for name, value in environ.items() if value in secrets]:
        known = Redactor()
        known.add(environ[name])
        if known.knows(text):
            numbers = (number for number, line in enumerate(lines, 1) if known.knows(line))
            found.append(f"line {next(numbers, len(lines))}: value of a variable: {name}")
    return found
