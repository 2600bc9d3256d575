"""Finds in the recordings of this repository what must not be committed.

Besides keys, cookies and account ids: e-mail addresses, names of hosts and folders. A name in a server's own words is
allowed by an entry of `allowed_names.yaml`, with a reason; an entry that is not needed is a finding, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from testronaut_llm.testing import cassette_format as form
from testronaut_llm.testing.cassette_format import from_yaml

_TOP_LEVEL = "com|net|org|io|ai|dev|app|cloud|info|edu|gov|local|lan|internal|corp|home"
_NAMES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("e-mail address", re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")),
    ("host name", re.compile(r"(?i)\bhttps?://(?!(?:127\.0\.0\.1|localhost|\[::1\])(?![\w.-]))([\w.-]+)")),
    ("host name", re.compile(rf"(?i)\b(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+(?:{_TOP_LEVEL})\b")),
    ("host name", re.compile(r"\b(?:10|172|192)\.\d{1,3}\.\d{1,3}\.\d{1,3}\b")),
    ("folder", re.compile(r"(?:/home|/root|/Users|/tmp|/work|/var/folders)/[\w.-]+|[A-Z]:\\\\?Users")),
)


def allowed_names() -> set[str]:
    """The names that may be in a recording; each entry of the list needs a reason."""
    entries = from_yaml((Path(__file__).parent / "allowed_names.yaml").read_text("utf-8"))
    return {entry["name"] for entry in entries if entry["reason"]}


def private_names(text: str) -> list[tuple[str, str]]:
    found = ((kind, match[match.lastindex or 0]) for kind, pattern in _NAMES for match in pattern.finditer(text))
    return list(dict.fromkeys(found))


def scanned(*folders: Path, allowed: set[str]) -> list[str]:
    """Returns the findings in the files below the folders, and allowances that are not needed."""
    found, seen = list[str](), set[str]()
    for file in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        text = file.read_text("utf-8", "surrogateescape")
        names = private_names(text)
        seen |= {name for _, name in names}
        wrong = [*form.leaks(text, os.environ), *(f"{kind}: {name}" for kind, name in names if name not in allowed)]
        found += [f"{file.name}: {one}" for one in (*wrong, *_headers(file, text))]
    return found + [f"allowed, but nowhere: {name}" for name in sorted(allowed - seen)]


def _headers(file: Path, text: str) -> Iterator[str]:
    """Yields the headers of a cassette that our recorder does not keep."""
    data = from_yaml(text) if file.suffix == ".yaml" else None
    for item in data.get("interactions", ()) if isinstance(data, dict) else ():
        asked, said = item["request"].get("headers", {}), item["response"].get("headers", {})
        yield from (f"header: {name}" for name in asked if name.lower() not in form.REQUEST_HEADERS)
        yield from (f"header: {name}" for name in said if not form.allowed_response_header(name))
