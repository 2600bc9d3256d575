"""kill -9 in the midst of every write: afterwards all opens, and nothing that was finished is gone."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "support" / "crash_program.py"
ROUNDS = 20


def crash(home: Path, rounds: int) -> dict[str, int]:
    """How much of each kind was finished in all rounds."""
    seed = random.randrange(1 << 30)
    command = [sys.executable, str(PROGRAM), str(home), str(rounds), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30 + 10 * rounds, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    finished: dict[str, int] = json.loads(done.stdout)
    return finished


@pytest.mark.skipif(os.name != "posix", reason="kill -9 and fork")
def test_a_kill_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    """Ledger, cache, llm.yaml, event file and model index, at random moments."""
    finished = crash(tmp_path, ROUNDS)
    assert set(finished) == {"settled", "cached", "edited", "logged"}
    assert min(finished.values()) >= ROUNDS


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.skipif(os.name != "posix", reason="kill -9 and fork")
def test_many_kills_lose_nothing(tmp_path: Path) -> None:
    """`make soak`."""
    rounds = int(os.environ.get("SOAK_ROUNDS", "3"))
    assert crash(tmp_path, rounds)["settled"] >= rounds / 2
