"""Appends what a run did to a file, as Markdown for the page of a CI job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from testronaut_llm.support.text import visible


def append_summary(
    file: Path,
    title: str,
    *,
    calls: int = 0,
    hits: int = 0,
    cost: str = "$0",
    failures: Mapping[str, int] | None = None,
) -> None:
    """Adds a heading and two tables: what was asked, and the failures by kind. Raises OSError."""
    failures = failures or {}
    head = " ".join(visible(title).replace("`", "'").split())
    lines = [f"### `{head}`", "", "| calls | hits | failed | cost |", "| ---: | ---: | ---: | ---: |"]
    lines.append(f"| {calls:,} | {hits:,} | {sum(failures.values()):,} | {cost} |")
    if failures:
        lines += ["", "| failure | calls |", "| --- | ---: |"]
        lines += [f"| {kind} | {count:,} |" for kind, count in sorted(failures.items())]
    with file.open("a", encoding="utf-8") as opened:
        opened.write("\n".join([*lines, "", ""]))
