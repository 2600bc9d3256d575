"""Folders that nobody may write to, for the whole program: answers still come, and every refusal is one clear line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import faults
import pytest
from manager_kit import KEY, Api, model
from read_only_program import obey_modes

PROGRAM = Path(__file__).parents[1] / "support" / "read_only_program.py"
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
    """What came of everything that the program can do, in a home that was never used and in one that was."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder)],
        env={**os.environ, "OPENAI_API_KEY": KEY, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=obey_modes,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="root has to give up its powers for this")
def test_nothing_is_lost_but_what_cannot_be_written(api: Callable[..., Api], tmp_path: Path) -> None:
    """Calls are answered with one warning for each store; commands that write end in one line that names the file."""
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
