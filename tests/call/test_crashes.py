"""A process that is killed while it writes loses no finished write, and breaks no file."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from manager_kit import program

PROGRAM = Path(__file__).parents[1] / "support" / "crash_program.py"


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.skipif(os.name != "posix", reason="kill -9 and fork")
def test_a_kill_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    """After kill -9 at random moments, ledger, cache, llm.yaml, events and model index hold what was written."""
    rounds = int(os.environ.get("SOAK_ROUNDS", "12"))
    done = program(PROGRAM, tmp_path, rounds, random.randrange(1 << 30), timeout=30 + 10 * rounds)
    assert done.returncode == 0, done.stderr[-2000:]
    finished = json.loads(done.stdout)
    assert set(finished) == {"settled", "cached", "edited", "logged"}
    assert min(finished.values()) >= rounds / 2
