"""What a cassette holds: requests and responses without secrets, as YAML with parsed JSON, to be read and diffed."""

import base64
import copy
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import yaml

from testronaut_llm.errors import ConfigError
from testronaut_llm.support.text import parse_json
from testronaut_llm.telemetry.redaction import SECRET_ENDS, Redactor, find_keys, is_secret_name

VERSION = 1
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
_LINE_WIDTH = 120


class _Dumper(yaml.CSafeDumper):
    """Multi-line strings as blocks, vectors on as few lines as they need."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True

    def text(self, text: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    def items(self, items: list[Any]) -> yaml.Node:
        numbers = bool(items) and all(type(item) in (int, float) for item in items)
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=numbers)


_Dumper.add_representer(str, _Dumper.text)
_Dumper.add_representer(list, _Dumper.items)


def to_yaml(value: Any) -> str:
    """Returns readable YAML of plain data, with keys in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=_LINE_WIDTH)
    return text.removesuffix("...\n")  # libyaml's end mark


def from_yaml(text: str) -> Any:
    """Returns the plain data of a YAML text; Python objects are refused."""
    return yaml.load(text, Loader=yaml.CSafeLoader)


def body_to_field(body: bytes | str | None) -> dict[str, Any]:
    """Returns `{}`, `{"json": ...}`, `{"text": ...}` or `{"base64": ...}`."""
    if not body:
        return {}
    raw = body.encode("utf-8", "surrogateescape") if isinstance(body, str) else body
    try:
        if isinstance(value := parse_json(raw), dict | list):
            return {"json": value}
    except ValueError:  # it is not JSON, or would change when written
        pass
    try:
        return {"text": raw.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def field_to_body(part: dict[str, Any]) -> bytes:
    """Returns the body of such a field."""
    if "json" in part:
        return json.dumps(part["json"], ensure_ascii=False, separators=(",", ":")).encode()
    if "base64" in part:
        return base64.b64decode(part["base64"])
    return str(part.get("text", "")).encode()


class Serializer:
    """Converts vcrpy's dictionaries to the text of a cassette and back."""

    @staticmethod
    def serialize(cassette: dict[str, Any]) -> str:
        def written(part: dict[str, Any], body: bytes | str | None) -> dict[str, Any]:
            headers = {name.lower(): ", ".join(values) for name, values in sorted(part["headers"].items())}
            return {"headers": headers, **body_to_field(body)}

        interactions = []
        for one in cassette["interactions"]:
            asked, said = one["request"], one["response"]
            request = {"method": asked["method"], "uri": asked["uri"], **written(asked, asked["body"])}
            response = {"status": said["status"]["code"], **written(said, said["body"]["string"])}
            interactions.append({"request": request, "response": response})
        return to_yaml({"version": VERSION, **cassette.get("metadata", {}), "interactions": interactions})

    @staticmethod
    def deserialize(text: str) -> dict[str, Any]:
        data = from_yaml(text)
        if not isinstance(data, dict) or data.get("version") != VERSION or not data.get("recorded_from"):
            wanted = f"it must hold `version: {VERSION}` and name its server in `recorded_from:`"
            raise ConfigError(f"not a cassette of testronaut-llm: {wanted}; run: pytest --llm-record=refresh")

        def headers(part: dict[str, Any]) -> dict[str, list[str]]:
            return {name: [str(value)] for name, value in (part.get("headers") or {}).items()}

        interactions = []
        for one in data.pop("interactions"):
            asked, said = one["request"], one["response"]
            request = {"method": asked["method"], "uri": asked["uri"], "headers": headers(asked)}
            response = {"status": {"code": said["status"], "message": ""}, "headers": headers(said)}
            request["body"], response["body"] = field_to_body(asked), {"string": field_to_body(said)}
            interactions.append({"request": request, "response": response})
        return {"version": data.pop("version"), "metadata": data, "interactions": interactions}


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
