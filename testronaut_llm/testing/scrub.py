"""What may enter a cassette: named headers, clean URLs, no account's name. All else is dropped, not searched for.

The rules run over live requests too, so that a cassette replays on another port, for another Azure
resource and with another key.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from testronaut_llm.telemetry.redaction import is_secret_name

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


def allowed_response_header(name: str) -> bool:
    """Is this response header one that a cassette may keep?"""
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
