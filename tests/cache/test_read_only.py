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

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="root has to give up its powers for this")

PROGRAM = Path(__file__).parents[1] / "support" / "unwritable_program.py"
# A limited write would leave incomplete modules for the next import.
GIVEN = {"OPENAI_API_KEY": KEY, "PYTHONDONTWRITEBYTECODE": "1"}
SIZES = (0, 20_000)
"""Bytes that a file may hold on the disk that is full."""
Found = dict[str, tuple[int, str]]
Results = list[tuple[Found, str]]

READS = {
    *("complete", "again", "stream", "paid", "batch", "run t Say hello.", "run t Say hello. --stream --no-cache"),
    *("route t Say hello.", "check", "compare Say hello. --models m --task t"),
    *("config show", "models list", "models remove --older-than 30d --yes", "prices show m"),
}
"""What works without writing anything."""

HAS_NOTHING = {"spend", "spend prune --older-than 1d", "cache stats", "cache clear --yes"}
"""What works where there is nothing yet, and otherwise says who may not write."""


@pytest.fixture(scope="module")
def results(api: Callable[..., Api], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of all that the program tries: in an unused home, in a used one, and on full disks."""
    folder = tmp_path_factory.mktemp("unwritable")
    row = model("openai", api("a", faults.good("fine")))
    facts = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-7, "output_cost_per_token": 1e-6}
    text = {"models": {"m": row}, "tasks": {"t": {"models": ["m"], "max_tokens": 10}}}
    for name in ("unused", "used", "free", "locked", *map(str, SIZES)):
        (folder / name).mkdir()
        log = {"log": {"file": str(folder / name / "home" / "events.jsonl")}} if name.isdigit() else {}
        (folder / name / "llm.yaml").write_text(json.dumps({**text, **log}))
        (folder / name / "table.json").write_text(json.dumps({"gpt-4o-mini": facts}))
    done = program(PROGRAM, folder, *SIZES, env={**os.environ, **GIVEN}, preexec_fn=obey_modes)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((folder / "locked" / "llm.yaml").read_text()) == text
    assert sorted(one.name for one in (folder / "locked").iterdir()) == ["llm.yaml", "table.json"]
    return json.loads(done.stdout)


def warnings(said: str) -> list[str]:
    return sorted(line.partition("event=")[2].split()[0].strip("'") for line in said.splitlines() if "event=" in line)


@pytest.mark.parametrize(
    ("home", "works"),
    [(0, READS | HAS_NOTHING), (1, READS | {"models pull embedded/tiny-random"})],
    ids=["unused", "used"],
)
def test_nothing_is_lost_but_what_cannot_be_written(results: Results, home: int, works: set[str]) -> None:
    found, said = results[home]
    assert {name for name, (code, _) in found.items() if code == 0} == works
    assert (found["complete"][1], found["stream"][1], found["paid"][1]) == ("fine", "fine", "fine")
    for name in found.keys() - works:
        code, output = found[name]
        assert code in (1, 2), output
        assert output.count("\n") == 1, output
        assert output.startswith("error (")
        assert "prices no model" not in output
        assert "/" in output or "cannot write" in output
    assert warnings(said) == ["cache_trouble", "ledger_unavailable", "token_memory_not_saved"]
    assert "make it writable: chmod -R u+rwX" in said


def test_a_full_disk_costs_no_answer_and_breaks_no_file(results: Results) -> None:
    for size, (found, said) in zip(SIZES, results[2:], strict=True):
        assert {found[name][0] for name in ("complete", "again", "paid", "stream", "batch", "whole")} == {0}
        assert "make room" in found["pull"][1].lower()
        assert found["report"][0] == 0 or "free space" in found["report"][1]
        assert found["set"][0] == 0 or "cannot write" in found["set"][1]
        assert (found["set"][0] == 0) is (size > 0)
        warned = warnings(said)
        assert len(warned) == len(set(warned))
        assert {"cache_trouble", "ledger_unavailable"} <= set(warned)
