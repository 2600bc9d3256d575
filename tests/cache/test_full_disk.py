"""A disk that fills up, at each of the package's writes: answers still come, and every failure says what to do."""

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

PROGRAM = Path(__file__).parents[1] / "support" / "disk_program.py"


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of files stands for the disk")
def test_a_full_disk_costs_no_answer_and_breaks_no_file(api: Callable[..., Api], tmp_path: Path) -> None:
    """Cache, ledger, events, what was learned: one warning each. Downloads and edits: an error, the old file stays."""
    row = model("openai", api("a", faults.good("fine")))
    folders = {size: tmp_path / str(size) for size in (0, 20_000)}
    for folder in folders.values():
        folder.mkdir()
        text = {"models": {"m": row}, "log": {"file": str(folder / "home" / "events.jsonl")}}
        task = json.dumps({"models": ["m"], "max_tokens": 5})
        (folder / "llm.yaml").write_text(json.dumps(text)[:-1] + ', "tasks": {"t": ' + task + "}}")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, folders.values())],
        # A limited write would leave modules cut in half behind, for whoever imports them next.
        env={**os.environ, "OPENAI_API_KEY": KEY, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for size, (found, said) in zip(folders, json.loads(done.stdout), strict=True):
        assert [found[name] for name in ("first", "second", "paid", "stream")] == ["ok"] * 4
        assert found["whole"] == "True"
        assert "make room" in found["pull"].lower()
        assert found["spend"] == "ok" or "free space" in found["spend"]
        assert found["set"] == "ok" or "cannot write" in found["set"]
        assert (found["set"] == "ok") is (size > 0)
        warned = [line.partition("event=")[2].split()[0] for line in said.splitlines() if "event=" in line]
        assert len(warned) == len(set(warned))
        assert {"'cache_trouble'", "'ledger_unavailable'"} <= set(warned)
