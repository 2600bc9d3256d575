"""Many processes with many threads spend at once, and the budget is never exceeded."""

from __future__ import annotations

import contextlib
import os
import time
from decimal import Decimal
from pathlib import Path

import pytest
from fault_server import FaultServer
from faults import good, late
from ledger_storm import ROOM
from manager_kit import KEY, program

from testronaut_llm.money.ledger import Ledger
from testronaut_llm.support.paths import data_dir

STORM = Path(__file__).parents[1] / "support" / "ledger_storm.py"
CALL = Decimal("0.0001")


def storm(server: FaultServer, kills: int) -> int:
    """Runs the program with 8 processes of 8 threads; returns the number of requests that arrived."""
    api = server.plan("api", late(0.1, good(usage=(10, 100))))
    done = program(STORM, api.url, 8, 8, kills, env={**os.environ, "OPENAI_API_KEY": KEY}, timeout=300)
    assert done.returncode == 0, done.stderr
    return len([one for one in api.requests if one.method == "POST"])


def books(later: float = 0.0) -> tuple[Decimal, Decimal]:
    """Returns the spent and the reserved money, some seconds later."""
    with contextlib.closing(Ledger(data_dir() / "ledger.sqlite3", clock=lambda: time.time() + later)) as ledger:
        return ledger.standing("storm")


def test_a_storm_spends_what_the_budget_holds(server: FaultServer) -> None:
    """With room for 50 calls and 64 threads in 8 processes, 50 requests arrive, and nothing is reserved at the end."""
    assert storm(server, kills=0) == ROOM
    assert books() == (ROOM * CALL, 0)


@pytest.mark.soak
def test_a_storm_with_processes_killed_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of a killed process are paid when their lease ends, within the budget."""
    for number in range(int(os.environ.get("SOAK_ROUNDS", "1"))):
        monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(tmp_path / f"{number}"))
        with FaultServer() as server:
            arrived = storm(server, kills=(number + 4) % 8)
        assert arrived <= ROOM
        spent, aside = books()
        assert spent + aside <= ROOM * CALL
        spent, aside = books(later=10_000)
        assert aside == 0
        assert arrived * CALL <= spent <= ROOM * CALL
