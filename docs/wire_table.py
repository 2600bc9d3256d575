"""The page that says what proves each wire in each mode, written from the tests that carry the marker `proves`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent / "tests"
WIRES = ("openai", "azure classic", "azure v1", "anthropic", "ollama", "embedded")
CALLS = ("text", "stream", "schema", "embeddings", "error")
MODES = ("sync", "async")
LETTERS = {"cassette": "R", "real server": "S", "fault server": "F"}
EMPTY = {("anthropic", "embeddings"): "the Anthropic wire has no embeddings"}
UNRECORDED = {("anthropic", "schema"): "llama.cpp's Anthropic wire takes no schema, so there is nothing to record"}
"""Cells that only the fault server proves, and why."""
HEAD = """# What proves each wire

Written by `make docs` from the tests that carry the marker `proves`: a test that is not there, that may be skipped
or is expected to fail fills no cell, and one that is skipped all the same fails. Server and kind of call are read
from the recording.

**R** a recording (cassette) of a real server, **S** a real server that the test starts, **F** our own server of faults,
which answers in the form of the wire, well or badly.
"""
NOT_THEMSELVES = """
Nothing here was recorded from these themselves: {names}. Such a wire is proved against llama.cpp and
Ollama, which speak it too, and against the fault server, whose error bodies have the published form. With a key,
`make record PROVIDER=openai` (or `anthropic`, or `azure`) adds the recordings, and this page then names them.
"""


def wire_table_page() -> str:
    """Return the page.

    Raises:
        SystemExit: a cell is empty, or lacks a recording, and `EMPTY` or `UNRECORDED` does not say why; or they give a
            reason where there is none to give.
    """
    proofs = _proofs()
    _check(proofs)
    parts = [HEAD + _not_themselves(proofs), _table(("wire", *CALLS), _summary(proofs))]
    for wire in WIRES:
        rows = list(_rows([one for one in proofs if one["wire"] == wire], wire))
        parts.append(f"## {wire}\n\n{_table(('call', 'proved by', 'test', *MODES), rows)}")
    return "\n".join(parts)


def _proofs() -> list[dict[str, str]]:
    """Ask pytest, in a process of its own, and for what is recorded now."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RECORD_", "PYTEST_"))}
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(TESTS / "proofs.py")], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"docs: the tests that prove the wires cannot be collected:\n{done.stdout}{done.stderr}")
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def _check(proofs: list[dict[str, str]]) -> None:
    for wire in WIRES:
        for call in CALLS:
            for mode in MODES:
                letters = _letters(proofs, wire, call, mode)
                where = f"docs: {wire}, {call}, {mode}"
                if bool(letters) == ((wire, call) in EMPTY):
                    raise SystemExit(f"{where}: proved by {letters or 'nothing'}; see EMPTY in docs/wire_table.py")
                if letters and (letters == "F") != ((wire, call) in UNRECORDED):
                    raise SystemExit(f"{where}: proved by {letters}; see UNRECORDED in docs/wire_table.py")


def _letters(proofs: list[dict[str, str]], wire: str, call: str, mode: str) -> str:
    kinds = {_kind(one) for one in proofs if (one["wire"], one["what"], one["mode"]) == (wire, call, mode)}
    return " ".join(letter for kind, letter in LETTERS.items() if kind in kinds)


def _kind(proof: dict[str, str]) -> str:
    return proof["by"].partition(":")[0]


def _not_themselves(proofs: list[dict[str, str]]) -> str:
    servers = {one["by"] for one in proofs}
    names = [
        name
        for name in ("OpenAI", "Azure", "Anthropic")
        if not any(by.startswith(f"cassette: {name}") for by in servers)
    ]
    return NOT_THEMSELVES.format(names=", ".join(names)) if names else ""


def _summary(proofs: list[dict[str, str]]) -> Iterator[tuple[str, ...]]:
    for wire in WIRES:
        cells = []
        for call in CALLS:
            sync, later = (_letters(proofs, wire, call, mode) for mode in MODES)
            reason = EMPTY.get((wire, call)) or UNRECORDED.get((wire, call), "")
            both = sync if sync == later else f"sync {sync}, async {later}"
            cells.append(f"{both} ({reason})" if both and reason else both or f"none: {reason}")
        yield (wire, *cells)


def _rows(proofs: list[dict[str, str]], wire: str) -> Iterator[tuple[str, ...]]:
    for call in CALLS:
        if (wire, call) in EMPTY:
            yield (call, f"nothing: {EMPTY[wire, call]}", "", "", "")
        by_test: dict[tuple[str, str], set[str]] = {}
        for one in proofs:
            if one["what"] == call:
                by_test.setdefault((one["by"], one["test"]), set()).add(one["mode"])
        for (by, test), modes in sorted(by_test.items()):
            yield (call, by, f"`{test}`", *("yes" if mode in modes else "no" for mode in MODES))


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
