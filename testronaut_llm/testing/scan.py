"""Find what must not be committed: keys, cookies, account ids, e-mail addresses, names of hosts and folders.

A name that a server's own words contain is allowed by an entry in the allow-list, with a reason;
an entry that nothing needs any more is a finding itself. Keys and cookies cannot be allowed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from testronaut_llm.support.text import read_utf8
from testronaut_llm.telemetry.redaction import Redactor, find_keys
from testronaut_llm.testing import scrub
from testronaut_llm.testing.cassette_format import from_yaml

SECRET_KINDS = frozenset({"secret", "cookie", "account id", "value of a variable", "header"})

_TOP_LEVEL = "com|net|org|io|ai|dev|app|cloud|info|edu|gov|local|lan|internal|corp|home"
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
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
    file: Path | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else f"line {self.line}"
        shown = f"{self.text[:6]}...({len(self.text)} characters)" if self.kind in SECRET_KINDS else self.text
        return f"{place}: {self.kind}: {shown}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedName:
    """A name that may stand in a recording, and why."""

    name: str
    reason: str


def read_allow_list(file: Path) -> tuple[AllowedName, ...]:
    """The entries of a YAML list of `{name: ..., reason: ...}`; each needs both."""
    return tuple(AllowedName(name=entry["name"], reason=entry["reason"]) for entry in from_yaml(read_utf8(file)))


def scan_text(
    text: str, *, allowed: Sequence[AllowedName] = (), environ: Mapping[str, str] | None = None
) -> list[Finding]:
    """Everything in `text` that looks private, but for the `allowed` names.

    With `environ`, the values of its variables named like keys are looked for as well, in any encoding.
    """
    found = [*_by_shape(text), *_by_value(text, environ or {})]
    for block in _BASE64.finditer(text):
        inner = base64.b64decode(block[1]).decode("latin-1")
        line = _line(text, block.start())
        found += [replace(one, line=line) for one in _by_shape(inner)]
    return _not_allowed(dict.fromkeys(found), allowed)


def scan_folder(
    folder: Path, *, allowed: Sequence[AllowedName] = (), environ: Mapping[str, str] | None = None
) -> list[Finding]:
    """`scan_text` of every file below `folder`, headers that a cassette may not keep, and allowances nobody needs."""
    found: list[Finding] = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        text = file.read_text("utf-8", "surrogateescape")
        everything = *scan_text(text, environ=environ), *_by_header(file, text)
        found += [replace(one, file=file) for one in everything]
    unused = {entry.name for entry in allowed} - {one.text for one in found}
    stale = [Finding(kind="allowance that nothing needs", text=name, line=0, file=folder) for name in sorted(unused)]
    return _not_allowed(found, allowed) + stale


def _not_allowed(found: Iterable[Finding], allowed: Sequence[AllowedName]) -> list[Finding]:
    names = {entry.name for entry in allowed}
    return [one for one in found if one.kind in SECRET_KINDS or one.text not in names]


def _by_shape(text: str) -> Iterator[Finding]:
    for match in find_keys(text):
        yield Finding(kind="secret", text=match[0], line=_line(text, match.start()))
    for kind, pattern in _PATTERNS:
        for match in pattern.finditer(text):
            found = match[1] if pattern.groups else match[0]
            yield Finding(kind=kind, text=found, line=_line(text, match.start()))


def _by_value(text: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    secrets = scrub.secrets_in(environ)
    if not _redactor(*secrets).knows(text):
        return
    for name in (name for name, value in environ.items() if value in secrets):
        redactor = _redactor(environ[name])
        if redactor.knows(text):
            lines = (number for number, line in enumerate(text.split("\n"), start=1) if redactor.knows(line))
            yield Finding(kind="value of a variable", text=name, line=next(lines, 1))


def _redactor(*secrets: str) -> Redactor:
    made = Redactor()
    for secret in secrets:
        made.add(secret)
    return made


def _by_header(file: Path, text: str) -> Iterator[Finding]:
    if file.suffix != ".yaml":
        return
    data = from_yaml(text)
    for item in data.get("interactions", ()) if isinstance(data, dict) else ():
        request, response = item["request"].get("headers", {}), item["response"].get("headers", {})
        refused = [name for name in request if name.lower() not in scrub.REQUEST_HEADERS]
        refused += [name for name in response if not scrub.allowed_response_header(name)]
        for name in refused:
            yield Finding(kind="header", text=name, line=_line(text, text.find(f"{name}:")))


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, max(position, 0)) + 1
