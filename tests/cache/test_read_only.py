"""With read-only folders or a full disk, answers are still returned, and every failure says what to do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import faults
import pytest
from manager_kit import KEY, Api, model, program
from unwritable_program import obey_modes

PROGRAM = Path(__file__).parents[1] / "support" / "unwritable_program.py"
# A limited write would leave incomplete modules for the next import.
GIVEN = {"OPENAI_API_KEY": KEY, "PYTHONDONTWRITEBYTECODE": "1"}
Found = dict[str, tuple[int, str]]

READS = {
    *("complete", "again", "stream", "paid", "batch", "run t Say hello.", "run t Say hello. --stream --no-cache"),
    *("route t Say hello.", "check", "compare Say hello. --models m --task t"),
    *("config show", "models list", "models remove --older-than 30d --yes", "prices show m"),
}
"""What works without writing anything."""

HAS_NOTHING = {"spend", "spend prune --older-than 1d", "cache stats", "cache clear --yes"}
"""What works where there is nothing yet, and otherwise says who may not write."""


def run(folder: Path) -> list[tuple[Found, str]]:
    """Returns the results of all that the program tries, in an unused home and in a used one."""
    done = program(PROGRAM, "modes", folder, env={**os.environ, **GIVEN}, preexec_fn=obey_modes)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="root has to give up its powers for this")
def test_nothing_is_lost_but_what_cannot_be_written(api: Callable[..., Api], tmp_path: Path) -> None:
    """Calls are answered with one warning for each store; commands that write end in one line with the file's name."""
    row = model("openai", api("a", faults.good("fine")))
    facts = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-7, "output_cost_per_token": 1e-6}
    text = json.dumps({"models": {"m": row}, "tasks": {"t": {"models": ["m"], "max_tokens": 10}}})
    for name in ("unused", "used", "free", "locked"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "llm.yaml").write_text(text)
        (tmp_path / name / "table.json").write_text(json.dumps({"gpt-4o-mini": facts}))
    (unused, said_first), (used, said_later) = run(tmp_path)
    assert (tmp_path / "locked" / "llm.yaml").read_text() == text
    assert sorted(one.name for one in (tmp_path / "locked").iterdir()) == ["llm.yaml", "table.json"]
    _check(unused, said_first, READS | HAS_NOTHING)
    _check(used, said_later, READS | {"models pull embedded/tiny-random"})


def _check(found: Found, said: str, works: set[str]) -> None:
    assert {name for name, (code, _) in found.items() if code == 0} == works
    assert (found["complete"][1], found["stream"][1], found["paid"][1]) == ("fine", "fine", "fine")
    for name in found.keys() - works:
        code, output = found[name]
        assert code in (1, 2), output
        assert output.count("\n") == 1, output
        assert output.startswith("error (")
        assert "prices no model" not in output
        assert "/" in output or "cannot write" in output
    warned = [line.partition("event=")[2].split()[0] for line in said.splitlines() if "event=" in line]
    assert sorted(warned) == ["'cache_trouble'", "'ledger_unavailable'", "'token_memory_not_saved'"]
    assert "make it writable: chmod -R u+rwX" in said


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of files stands for the disk")
def test_a_full_disk_costs_no_answer_and_breaks_no_file(api: Callable[..., Api], tmp_path: Path) -> None:
    """Stores warn once each. Failed downloads and edits are errors, and the old file is unchanged."""
    row = model("openai", api("a", faults.good("fine")))
    folders = {size: tmp_path / str(size) for size in (0, 20_000)}
    for folder in folders.values():
        folder.mkdir()
        text = {"models": {"m": row}, "log": {"file": str(folder / "home" / "events.jsonl")}}
        task = json.dumps({"models": ["m"], "max_tokens": 5})
        (folder / "llm.yaml").write_text(json.dumps(text)[:-1] + ', "tasks": {"t": ' + task + "}}")
    done = program(PROGRAM, "disk", *folders.values(), env={**os.environ, **GIVEN})
    assert done.returncode == 0, done.stderr[-2000:]
    for size, (found, said) in zip(folders, json.loads(done.stdout), strict=True):
        assert {found[name][0] for name in ("complete", "again", "paid", "stream", "batch", "whole")} == {0}
        assert "make room" in found["pull"][1].lower()
        assert found["report"][0] == 0 or "free space" in found["report"][1]
        assert found["set"][0] == 0 or "cannot write" in found["set"][1]
        assert (found["set"][0] == 0) is (size > 0)
        warned = [line.partition("event=")[2].split()[0] for line in said.splitlines() if "event=" in line]
        assert len(warned) == len(set(warned))
        assert {"'cache_trouble'", "'ledger_unavailable'"} <= set(warned)
