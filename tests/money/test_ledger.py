"""No money is lost and no limit exceeded, whatever happens to processes, clock, disk and file."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from testronaut_llm.errors import BudgetExceededError, ConfigError, RateLimitError
from testronaut_llm.money import ledger_file
from testronaut_llm.money.budgets import Limit, Reservation
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.money.ledger_file import LedgerBusyError, Period, day_of, seconds_left
from testronaut_llm.money.report import Totals, prune, report
from testronaut_llm.records import Attempt

NOON = 1_787_400_000.0 - 1_787_400_000.0 % 86_400 + 43_200
DAY = 86_400.0
SCOPE = "/srv/project/llm.yaml"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(tmp_path / "data" / "ledger.sqlite3", clock=lambda: NOON)) as made:
        yield made


def limit(amount: str, **facts: Any) -> Limit:
    return Limit(name="budget.total", period="total", amount=Decimal(amount), **facts)


def entry(ledger: Ledger, worst: str | None = "1", *limits: Limit) -> Reservation:
    facts: Any = {"ledger": ledger, "scope": SCOPE, "task": "t", "model": "m", "provider_model": "openai/m"}
    return Reservation(**facts, worst=worst and Decimal(worst), lease=900, limits=limits)


def sent(ledger: Ledger, worst: str = "1", *limits: Limit) -> Reservation:
    one = entry(ledger, worst, *limits).reserve()
    one.sent()
    return one


def attempt(cost: str | None, outcome: Any = "answer", **facts: Any) -> Attempt:
    return Attempt(model="m", provider_model="openai/m", outcome=outcome, cost=cost and Decimal(cost), **facts)


def spend(ledger: Ledger, cost: str, *limits: Limit) -> None:
    sent(ledger, "1", *limits).settle(attempt(cost))


def money(ledger: Ledger, period: Period = "total", task: str | None = None) -> tuple[str, ...]:
    """Returns the spent and the reserved money."""
    return tuple(map(str, ledger.standing(SCOPE, period, task)))


def total(ledger: Ledger) -> Totals:
    return report(ledger, SCOPE, since=None, limits=()).total


def in_a_child(work: Callable[[], object]) -> int | None:
    """Runs it in a forked process; returns its exit code, negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    return child.exitcode


def by_hand(ledger: Ledger, script: str = "") -> contextlib.closing[sqlite3.Connection]:
    """A connection of another process, which has run this script."""
    ledger.file.path.parent.mkdir(exist_ok=True)
    db = sqlite3.connect(ledger.file.path, isolation_level=None)
    db.executescript(script)
    return contextlib.closing(db)


def test_what_is_set_aside_becomes_what_it_cost(ledger: Ledger) -> None:
    one = entry(ledger, "0.5").reserve()
    assert money(ledger) == ("0", "0.5")
    one.sent()
    for cost, outcome in (("0.2", "answer"), ("0.2", "answer"), ("0.3", "rejected"), ("0.2", "answer")):
        one.settle(attempt(cost, outcome))
        assert money(ledger) == money(ledger, "day") == money(ledger, "month", "t") == (cost, "0")
        assert ledger.session.cost == Decimal(cost)
    entry(ledger, "0.5").reserve().settle(attempt("0"))
    entry(ledger, "1e30").reserve()  # the file holds at most a million dollars
    assert (money(ledger), money(ledger, task="other")) == (("0.2", "1000000"), ("0", "0"))


def test_reserved_money_counts_for_a_limit(ledger: Ledger) -> None:
    spend(ledger, "0.4")
    held = limit("1.0000000000009", task="t")  # is rounded down to whole picodollars
    with pytest.raises(BudgetExceededError, match=r"m may cost up to \$0\.61 .* \$0\.60 of .* left of .*; raise"):
        entry(ledger, "0.61", held).reserve()
    entry(ledger, "0.6", held).reserve()
    for worst, says in (("0.000000000001", r"\$0 of"), (None, "no known price")):
        with pytest.raises(BudgetExceededError, match=says):
            entry(ledger, worst, held).reserve()


@pytest.mark.parametrize(("steps", "soon", "paid"), [(0, "0 0.5", "0"), (1, "0 0.5", "0.5"), (2, "0.1 0", "0.1")])
def test_kill_9_in_each_state(ledger: Ledger, steps: int, soon: str, paid: str) -> None:
    """When the lease ends, unsent requests are released, and sent ones are settled at their worst case."""

    def die() -> None:
        one = entry(ledger, "0.5").reserve()
        for step in (one.sent, partial(one.settle, attempt("0.1")))[:steps]:
            step()
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_child(die) == -signal.SIGKILL
    assert money(ledger) == tuple(soon.split())
    ledger.clock = lambda: NOON + 901
    for _ in range(2):
        assert money(ledger) == (paid, "0")
        ledger.flush()


def test_a_reservation_that_lapsed_must_be_made_again(ledger: Ledger) -> None:
    """A process that slept before it sent has lost its reservation, and gets an error."""
    one = entry(ledger, "2", limit("3")).reserve()
    ledger.clock = lambda: NOON + 61
    for others_spend in (lambda: entry(ledger).settle(attempt("1.5")), lambda: spend(ledger, "0.5", limit("3"))):
        others_spend()  # the second ends leases that are over
        with pytest.raises(BudgetExceededError):
            one.sent()
    one.settle(attempt("0.3"))  # a request that was sent anyway is booked
    assert money(ledger) == ("2.3", "0")


def test_days_and_months_end_in_utc_also_after_the_clock_was_set_back(ledger: Ledger) -> None:
    """Spend dated in the future counts today, so that setting the clock back frees no budget."""
    spend(ledger, "1")
    for day, left in ((1, "0 1 1"), (32, "0 0 1"), (-1, "1 1 1"), (-401, "1 1 1")):
        ledger.clock = lambda day=day: NOON + day * DAY
        assert [money(ledger, period)[0] for period in ("day", "month", "total")] == left.split()
    month = NOON + (seconds_left("month", NOON) or 0)
    assert (seconds_left("day", NOON), seconds_left("total", NOON)) == (DAY / 2, None)
    assert (day_of(month)[-3:], day_of(month - 1)[:7]) == ("-01", day_of(NOON)[:7])


def test_the_true_cost_corrects_the_worst_case(ledger: Ledger) -> None:
    """A stream that paused longer than its lease is settled twice, even if the clock jumped meanwhile."""
    one = sent(ledger, "0.5")
    ledger.clock = lambda: 1e12  # past the last year that a calendar knows
    assert money(ledger) == ("0.5", "0")
    spend(ledger, "0.1")
    ledger.clock = lambda: NOON + DAY
    one.settle(attempt("0.2"))
    assert money(ledger) == ("0.3", "0")
    assert money(ledger, "day") == ("0.1", "0")  # the 0.2 were spent yesterday


def test_the_file_is_private_and_tells_no_words(ledger: Ledger) -> None:
    path = ledger.file.path
    sent(ledger).settle(attempt(None, "error", error=RateLimitError("sk-secret and the prompt")))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    ledger.close()
    assert b"rate_limit" in path.read_bytes()
    assert b"secret" not in path.read_bytes()
    path.chmod(0o644)
    assert money(ledger) == ("1", "0")  # and opens again
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("full", "says"), [(False, r"readonly.*no budget.*; .*chmod -R u\+rwX "), (True, "df -h")])
def test_an_unwritable_ledger_holds_no_budget_and_forgets_no_money(ledger: Ledger, full: bool, says: str) -> None:
    """Under a limit it is an error before sending; a paid answer is booked once the file can be written."""
    one, connect, most = sent(ledger), sqlite3.connect, resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as undo:
        if full:
            undo.callback(resource.setrlimit, resource.RLIMIT_FSIZE, most)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, most[1]))
        else:
            ledger.close()
            patch.setattr(sqlite3, "connect", lambda name, **facts: connect(f"file:{name}?mode=ro", uri=True, **facts))
        with structlog.testing.capture_logs() as logs:
            one.settle(attempt("0.2"))
            sent(ledger).settle(attempt("0.3"))
            ledger.hit(SCOPE, "t", "m", Decimal("0.7"))
        assert [log["event"] for log in logs] == ["ledger_unavailable"]
        with pytest.raises(ConfigError, match=says):
            entry(ledger, "1", limit("9")).reserve()
    assert (total(ledger).saved_by_cache, money(ledger)) == (Decimal("0.7"), ("0.5", "0"))


def test_a_locked_ledger_never_blocks_a_call(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another process locks the file, calls under a budget fail at once, and bookings are delayed."""
    spend(ledger, "0.1")
    limited, free = entry(ledger, "1", limit("9")).reserve(), entry(ledger, "0", limit("9")).reserve()
    with by_hand(ledger, "BEGIN IMMEDIATE") as other:
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", lambda _: pytest.fail("it waited"))
            for step in (entry(ledger, "1", limit("9")).reserve, limited.sent):
                with pytest.raises(LedgerBusyError, match="fuser -v"):
                    step()
            for one in (free, entry(ledger).reserve()):
                one.sent()
                one.settle(attempt("0.2"))
                one.settle(attempt("0.3", "rejected"))
            assert money(ledger) == ("0.1", "1")
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
            patch.setattr(ledger_file, "_WAIT", 0.01)
            with pytest.raises(LedgerBusyError):
                total(ledger)  # a report waits for seconds
            ledger.close()
        assert [log["event"] for log in logs] == ["ledger_unavailable"]
        monkeypatch.setattr(time, "sleep", lambda _: other.rollback())
        assert total(ledger).calls == 3
    assert money(ledger) == ("0.7", "1")


def test_a_call_that_the_collector_closes_in_a_transaction_is_booked_later(ledger: Ledger) -> None:
    """It does not wait for a lock of its own thread."""
    one = sent(ledger, "0.5")
    ledger.file.run(lambda _: one.settle(attempt("0.2")))
    assert money(ledger) == ("0", "0.5")
    ledger.flush()
    assert money(ledger) == ("0.2", "0")


def test_an_impossible_amount_in_the_file_is_an_error(ledger: Ledger) -> None:
    spend(ledger, "0.1")
    ledger.file.run(lambda db: db.execute("UPDATE attempts SET amount = 'NaN'"))
    with pytest.raises(ConfigError, match=r"the ledger .*instead of an amount"):
        total(ledger)


def test_a_file_of_an_older_version_is_used_and_one_of_a_newer_version_is_refused(ledger: Ledger) -> None:
    """The old file has columns that are no longer used, one request that is sent and one that is reserved."""
    with by_hand(ledger, (Path(__file__).parents[1] / "support" / "data" / "old_ledger.sql").read_text()):
        assert money(ledger) == ("0.2", "0.65")
    spend(ledger, "0.1", limit("1.85"))
    ledger.clock = lambda: NOON + 901
    ledger.close()
    with pytest.MonkeyPatch.context() as newer:
        newer.setattr(ledger_file, "_VERSIONS", (*ledger_file._VERSIONS, "CREATE TABLE more (x);"))
        ledger.hit(SCOPE, "t", "m", Decimal("0.2"))
        ledger.close()
    with pytest.raises(ConfigError, match=r"version 2, .*newer.*upgrade"):
        entry(ledger, "1", limit("9")).reserve()
    with by_hand(ledger, "PRAGMA user_version = 1"):
        before = total(ledger)
    assert (before.calls, before.hits, before.cost, before.saved_by_cache) == (3, 2, Decimal("0.7"), Decimal("0.3"))
    ledger.clock = lambda: NOON + DAY + 901
    assert prune(ledger, day_of(NOON + DAY)) == 3
    assert (total(ledger), money(ledger)) == (before, ("0.7", "0"))


def test_a_fork_takes_no_connection_along(ledger: Ledger) -> None:
    """Parent and child use the same manager. Neither trusts the other's locks, or writes the other's hits."""
    spend(ledger, "0.1")
    ledger.hit(SCOPE, "t", "m", Decimal(1))
    gc.collect()  # a connection that is finalised while another thread forks would hold SQLite's own locks
    going = threading.Event()

    def busy() -> None:
        while not going.is_set():
            spend(ledger, "0")

    def child() -> None:
        assert not [fd for fd in Path("/proc/self/fd").iterdir() if fd.exists() and fd.resolve() == ledger.file.path]
        spend(ledger, "0.05")
        ledger.close()

    codes = [in_a_child(child)]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(busy)
        codes += [in_a_child(child) for _ in range(3)]
        going.set()
    assert (codes, total(ledger).hits, money(ledger)) == ([0] * 4, 1, ("0.3", "0"))


def test_hits_are_kept_in_memory_and_written_together(ledger: Ledger) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ledger.hit(SCOPE, "t", "m", Decimal("0.01")), range(100)))
    assert (ledger.session.saved, ledger.file.exists) == (1, False)
    spend(ledger, "0.1")
    with by_hand(ledger) as db:
        assert db.execute("SELECT hits FROM daily").fetchall() == [(100,)]
        for _ in range(300):
            ledger.hit(SCOPE, "t", "m", Decimal("0.01"))
        assert 300 < db.execute("SELECT hits FROM daily").fetchone()[0] < 400
    found = total(ledger)
    assert (found.hits, found.saved_by_cache, found.calls, ledger.session.saved) == (400, 4, 1, 4)
