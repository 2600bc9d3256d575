"""The page of the fault matrix, written from the table that the tests hold, row by row, in every wire and mode."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent / "tests"
HEAD = """# What happens when a server fails

Each row was held in whole calls, sync and async, as a stream and not, against a server that really does it, behind
the wires of OpenAI, Azure, Anthropic, Ollama and an embedded model: {cells:,} cells. For each: the class of the
error, how many requests went to the model and to the next one of the list, that none went before it was wanted, that
the deadline held, that every reservation was settled, that nothing but an accepted answer was cached, and that no
answer holds text of two models.

**RETRY** asks the model again, as often as `retries` says, then the next one; **NEXT** goes on at once; **STOP** ends
the call. A stream that has handed out text is never begun anew: its error is raised whatever the verdict. A time-out
of a local model goes to the next one at once, since a second request would wait behind the first. A wait that nobody
would wait for counts as NEXT.

"""


def fault_page() -> str:
    """Return the page."""
    sys.path.insert(0, str(TESTS))
    try:
        from fault_table import FAULTS, MODES, STREAMS, WIRES, cells
    finally:
        sys.path.remove(str(TESTS))
    rows = ["| what the server does | becomes | verdict | where |", "| --- | --- | --- | --- |"]
    for name, fault in FAULTS.items():
        where = list(_where(fault, WIRES, MODES, STREAMS))
        becomes = f"`{fault.error.__name__}`"
        if also := [one.__name__ for one in fault.streamed if one is not fault.error]:
            becomes += f" (in a stream also `{'`, `'.join(also)}`)"
        for wire, error in fault.per_wire.items():
            becomes += f" ({wire}: `{error.__name__}`)"
        rows.append(
            f"| {name}: {fault.does} | {becomes} | {fault.error.verdict.name} | {', '.join(where) or 'everywhere'} |"
        )
    return HEAD.format(cells=len(cells())) + "\n".join(rows) + "\n"


def _where(fault: Any, wires: tuple[str, ...], modes: tuple[str, ...], streams: tuple[str, ...]) -> Iterator[str]:
    if fault.modes == streams:
        yield "streams"
    elif fault.modes != modes:
        yield "no streams" if set(fault.modes).isdisjoint(streams) else f"{', '.join(fault.modes)}"
    if len(fault.wires) < len(wires):
        missing = [wire for wire in wires if wire not in fault.wires]
        yield f"all but {', '.join(missing)}" if len(missing) < 3 else ", ".join(fault.wires)
