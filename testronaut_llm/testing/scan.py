"""Finds what must not be committed: keys, cookies, account ids, e-mail addresses, names of hosts and folders."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote

from testronaut_llm.testing import scrub

SECRET_KINDS = frozenset({"secret", "cookie", "account id", "value of a variable"})

_TOP_LEVEL = "com|net|org|io|ai|dev|app|cloud|info|edu|gov|local|lan|internal|corp|home"
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("secret", re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{12,}")),
    ("secret", re.compile(r"\b(?:AIza|gsk_|hf_|xai-|nvapi-|r8_|pplx-|ya29\.)[A-Za-z0-9_-]{16,}")),
    ("secret", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("secret", re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-)[A-Za-z0-9_-]{16,}")),
    ("secret", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")),
    ("secret", re.compile(r"(?i)\b(?:bearer|basic) +(?=\S*\d)[A-Za-z0-9._~+/=-]{12,}")),
    ("secret", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    ("secret", re.compile(r"(?i)[?&](?:key|api[-_]?key|sig|token|access_token)=(?!REDACTED)[^&\s\"']{6,}")),
    ("cookie", re.compile(r"(?i)\b(?:set-)?cookie\b\"?'? *[:=]")),
    ("account id", re.compile(r"\b(?:org|proj)[-_](?!REDACTED)(?=\w*\d)[A-Za-z0-9]{10,}")),
    ("e-mail address", re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")),
    ("host name", re.compile(r"(?i)\bhttps?://(?!(?:127\.0\.0\.1|localhost|\[::1\])(?![\w.-]))([\w.-]+)")),
    ("host name", re.compile(rf"(?i)\b(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+(?:{_TOP_LEVEL})\b")),
    ("host name", re.compile(r"\b(?:10|172|192)\.\d{1,3}\.\d{1,3}\.\d{1,3}\b")),
    ("folder", re.compile(r"(?:/home|/root|/Users|/tmp|/work|/var/folders)/[\w.-]+|[A-Z]:\\\\?Users")),
)
_BASE64 = re.compile(r"(?m)^\s*base64: ([A-Za-z0-9+/=\s]+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that must not be there. `text` is what was found, shortened when it may be secret."""

    kind: str
    text: str
    line: int

    def __str__(self) -> str:
        shown = f"{self.text[:6]}...({len(self.text)} characters)" if self.kind in SECRET_KINDS else self.text
        return f"line {self.line}: {self.kind}: {shown}"


def scan_text(text: str, *, environ: Mapping[str, str] | None = None) -> list[Finding]:
    """Everything in `text` that looks private.

    With `environ`, the values of its variables named like keys are looked for as well, plain,
    URL-quoted and in base64.
    """
    found = [*_by_shape(text), *_by_value(text, environ or {})]
    for block in _BASE64.finditer(text):
        inner = base64.b64decode(block[1]).decode("latin-1")
        line = _line(text, block.start())
        found += [replace(one, line=line) for one in _by_shape(inner)]
    return list(dict.fromkeys(found))


def _by_shape(text: str) -> Iterator[Finding]:
    for kind, pattern in _PATTERNS:
        for match in pattern.finditer(text):
            found = match[1] if pattern.groups else match[0]
            yield Finding(kind=kind, text=found, line=_line(text, match.start()))


def _by_value(text: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    secrets = scrub.secrets_in(environ)
    for name, value in environ.items():
        forms = value, quote(value, safe=""), base64.b64encode(value.encode()).decode().rstrip("=")
        if value in secrets and (there := [text.find(form) for form in forms if form in text]):
            yield Finding(kind="value of a variable", text=name, line=_line(text, there[0]))


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, max(position, 0)) + 1
