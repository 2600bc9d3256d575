"""Looks through the recordings of this repository for what must not be committed.

A name that a server's own words contain is allowed by an entry in `allowed_names.yaml`, with a reason; an entry that
nothing needs any more is a finding itself. Keys and cookies cannot be allowed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from testronaut_llm.testing import scrub
from testronaut_llm.testing.cassette_format import from_yaml
from testronaut_llm.testing.scan import SECRET_KINDS, scan_text


def allowed_names() -> set[str]:
    """The names that may stand in a recording; each entry of the list needs a reason."""
    entries = from_yaml((Path(__file__).parent / "allowed_names.yaml").read_text("utf-8"))
    return {entry["name"] for entry in entries if entry["reason"]}


def scanned(*folders: Path, allowed: set[str]) -> list[str]:
    """What is wrong in the files below the folders, and allowances that nothing needs."""
    found, needed = [], set()
    for file in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        text = file.read_text("utf-8", "surrogateescape")
        for one in scan_text(text, environ=os.environ):
            if one.text in allowed and one.kind not in SECRET_KINDS:
                needed.add(one.text)
            else:
                found.append(f"{file.name}: {one}")
        found += [f"{file.name}: header {name}" for name in _headers(file, text)]
    return found + [f"allowed, but nowhere: {name}" for name in sorted(allowed - needed)]


def _headers(file: Path, text: str) -> Iterator[str]:
    """The headers of a cassette that our recorder does not keep."""
    data = from_yaml(text) if file.suffix == ".yaml" else None
    for item in data.get("interactions", ()) if isinstance(data, dict) else ():
        yield from (name for name in item["request"].get("headers", {}) if name.lower() not in scrub.REQUEST_HEADERS)
        yield from (name for name in item["response"].get("headers", {}) if not scrub.allowed_response_header(name))
