"""No money is lost and no limit exceeded, whatever happens to processes, clock, disk and file."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from testronaut_llm.errors import BudgetExceededError, ConfigError, RateLimitError
from testronaut_llm.money import ledger_file
from testronaut_llm.money.budgets import Limit, Reservation
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.money.ledger_file import LedgerBusyError, Period, day_of, dollars, patiently, pico, seconds_left
from testronaut_llm.money.report import Totals, prune, report
from testronaut_llm.records import Attempt, Usage

NOON = 1_787_400_000.0 - 1_787_400_000.0 % 86_400 + 43_200
DAY = 86_400.0
SCOPE = "/srv/project/llm.yaml"
OLD_LEDGER = Path(__file__).parents[1] / "support" / "data" / "old_ledger.sql"


@pytest.fixture
def clock() -> SimpleNamespace:
    """A clock that advances only when a test moves it."""
    return SimpleNamespace(now=NOON)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.sqlite3"


@pytest.fixture
def ledger(path: Path, clock: SimpleNamespace) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(path, clock=lambda: clock.now)) as made:
        yield made


def entry(ledger: Ledger, worst: str | None = "1", *limits: Limit, task: str = "t") -> Reservation:
    facts = {"ledger": ledger, "scope": SCOPE, "task": task, "model": "m", "provider_model": "openai/m"}
    return Reservation(**facts, worst=worst and Decimal(worst), lease=900, limits=limits)  # type: ignore[arg-type]


def attempt(cost: str | None, **facts: Any) -> Attempt:
    given = {"outcome": "answer", "usage": Usage(prompt_tokens=7, completion_tokens=3), **facts}
    return Attempt(model="m", provider_model="openai/m", cost=cost and Decimal(cost), **given)


def limit(amount: str, period: Period = "total", **facts: Any) -> Limit:
    return Limit(name=f"budget.per_{period}", period=period, amount=Decimal(amount), **facts)


def sent(ledger: Ledger, worst: str | None = "1", *limits: Limit, task: str = "t") -> Reservation:
    """Returns a reservation whose request was sent; retries while another process locks the file."""
    one = entry(ledger, worst, *limits, task=task)
    patiently(one.reserve)
    patiently(one.sent)
    return one


def spend(ledger: Ledger, cost: str, *limits: Limit, task: str = "t") -> None:
    sent(ledger, "1", *limits, task=task).settle(attempt(cost))


def money(ledger: Ledger, period: Period = "total", task: str | None = None) -> tuple[str, str]:
    """Returns the spent and the reserved money."""
    spent, aside = ledger.standing(SCOPE, period, task)
    return str(spent), str(aside)


def total(ledger: Ledger) -> Totals:
    return report(ledger, SCOPE, since=None, limits=()).total


def in_a_child(work: Callable[[], object]) -> int:
    """Runs it in a forked process; returns its exit code, negative for a signal."""
    if (child := os.fork()) == 0:
        code = 70
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextlib.contextmanager
def by_hand(path: Path, *statements: str) -> Iterator[sqlite3.Connection]:
    """Another process that runs these statements on the file, and leaves at the end of `with`."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for one in statements:
            db.executescript(one)
        yield db


def test_what_is_set_aside_becomes_what_it_cost(ledger: Ledger) -> None:
    one = entry(ledger, "0.5").reserve()
    assert money(ledger) == ("0", "0.5")
    one.sent()
    for cost, outcome in (("0.2", "answer"), ("0.2", "answer"), ("0.3", "rejected"), ("0.2", "answer")):
        one.settle(attempt(cost, outcome=outcome))
        assert money(ledger) == money(ledger, "day") == money(ledger, "month", "t") == (cost, "0")
        assert ledger.session.cost == Decimal(cost)
    entry(ledger, "0.5").reserve().settle(attempt("0"))
    assert (money(ledger), money(ledger, task="other")) == (("0.2", "0"), ("0", "0"))


def test_reserved_money_counts_for_a_limit(ledger: Ledger) -> None:
    spend(ledger, "0.4")
    held = limit("1", task="t")
    with pytest.raises(BudgetExceededError, match=r"m may cost up to \$0\.61 .* \$0\.60 of .* left of .*; raise"):
        entry(ledger, "0.61", held).reserve()
    entry(ledger, "0.6", held).reserve()
    for worst, says in (("0.000000000001", r"\$0 of"), (None, "no known price")):
        with pytest.raises(BudgetExceededError, match=says):
            entry(ledger, worst, held).reserve()


@pytest.mark.parametrize(
    ("state", "soon", "paid"),
    [("reserved", ("0", "0.5"), "0"), ("sent", ("0", "0.5"), "0.5"), ("settled", ("0.1", "0"), "0.1")],
)
def test_kill_9_in_each_state(ledger: Ledger, clock: SimpleNamespace, state: str, soon: Any, paid: str) -> None:
    """When the lease ends, unsent requests are released, and sent ones are settled at their worst case."""

    def die() -> None:
        one = entry(ledger, "0.5").reserve()
        if state != "reserved":
            one.sent()
        if state == "settled":
            one.settle(attempt("0.1"))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_child(die) == -signal.SIGKILL
    assert money(ledger) == soon
    clock.now += 901
    assert money(ledger) == (paid, "0")
    ledger.flush()
    assert money(ledger) == (paid, "0")


def test_a_reservation_that_lapsed_must_be_made_again(ledger: Ledger, clock: SimpleNamespace) -> None:
    """A process that slept before it sent has lost its reservation, and gets an error."""
    one = entry(ledger, "1", limit("1")).reserve()
    clock.now += 61
    spend(ledger, "1", limit("1"))
    with pytest.raises(BudgetExceededError):
        one.sent()
    one.settle(attempt("0.3"))  # a request that was sent anyway is booked
    assert money(ledger) == ("1.3", "0")


def test_days_and_months_end_in_utc_also_after_the_clock_was_set_back(ledger: Ledger, clock: SimpleNamespace) -> None:
    """Spend dated in the future counts today, so that setting the clock back frees no budget."""
    spend(ledger, "1")
    for days, left in ((1, ["0", "1", "1"]), (31, ["0", "0", "1"])):
        clock.now += days * DAY
        assert [money(ledger, period)[0] for period in ("day", "month", "total")] == left
    for days in (33, 400):
        clock.now -= days * DAY
        assert [money(ledger, period)[0] for period in ("day", "month", "total")] == ["1", "1", "1"]
    month = NOON + (seconds_left("month", NOON) or 0)
    assert (seconds_left("day", NOON), seconds_left("total", NOON)) == (DAY / 2, None)
    assert (day_of(month)[-3:], day_of(month - 1)[:7]) == ("-01", day_of(NOON)[:7])


@pytest.mark.parametrize("back", [False, True])
def test_the_true_cost_corrects_the_worst_case(ledger: Ledger, clock: SimpleNamespace, back: bool) -> None:
    """A stream that paused longer than its lease is settled twice, even if the clock jumped meanwhile."""
    one = sent(ledger, "0.5")
    clock.now += 1e12 if back else DAY  # past the last year that a calendar knows
    assert money(ledger) == ("0.5", "0")
    spend(ledger, "0.1")
    if back:
        clock.now = NOON
    one.settle(attempt("0.2"))
    assert money(ledger) == ("0.3", "0")
    assert money(ledger, "day") == ("0.3" if back else "0.1", "0")  # it was spent yesterday


def test_the_file_is_private_and_tells_no_words(ledger: Ledger, path: Path) -> None:
    sent(ledger).settle(attempt(None, outcome="error", usage=None, error=RateLimitError("sk-secret and the prompt")))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    ledger.close()
    assert b"rate_limit" in path.read_bytes()
    assert b"secret" not in path.read_bytes()
    path.chmod(0o644)
    assert money(ledger) == ("1", "0")  # and opens again
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_read_only_ledger_holds_no_budget_and_loses_no_answer(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a limit it is an error before sending; a paid answer is booked once the file can be written."""
    connect, one = sqlite3.connect, sent(ledger)
    ledger.close()
    monkeypatch.setattr(sqlite3, "connect", lambda name, **facts: connect(f"file:{name}?mode=ro", uri=True, **facts))
    with structlog.testing.capture_logs() as logs:
        one.settle(attempt("0.2"))
        sent(ledger).settle(attempt("0.3"))
        ledger.hit(SCOPE, "t", "m", Decimal("0.7"))
    assert [log["event"] for log in logs] == ["ledger_unavailable"]
    with pytest.raises(ConfigError, match=r"readonly.*no budget can be enforced; .*chmod -R u\+rwX "):
        entry(ledger, "1", limit("9")).reserve()
    monkeypatch.undo()
    assert (total(ledger).saved_by_cache, money(ledger)) == (Decimal("0.7"), ("0.5", "0"))


def test_a_locked_ledger_never_blocks_a_call(ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another process locks the file, calls under a budget fail at once, and bookings are delayed."""
    spend(ledger, "0.1")
    limited, free = entry(ledger, "1", limit("9")).reserve(), entry(ledger, "0", limit("9")).reserve()
    with by_hand(path, "BEGIN IMMEDIATE") as other:
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", lambda _: pytest.fail("it waited"))
            for step in (entry(ledger, "1", limit("9")).reserve, limited.sent):
                with pytest.raises(LedgerBusyError, match="fuser -v"):
                    step()
            for one in (free, entry(ledger).reserve()):
                one.sent()
                one.settle(attempt("0.2"))
                one.settle(attempt("0.3", outcome="rejected"))
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


def test_a_call_that_the_collector_closes_in_a_transaction_is_booked_later(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for a lock of its own thread."""
    monkeypatch.setattr(ledger_file, "_LOCK_WAIT", 0.01)
    one = sent(ledger, "0.5")
    ledger.file.run(lambda _: one.settle(attempt("0.2")))
    assert money(ledger) == ("0", "0.5")
    ledger.flush()
    assert money(ledger) == ("0.2", "0")


def test_an_impossible_amount_in_the_file_is_an_error(ledger: Ledger, path: Path) -> None:
    spend(ledger, "0.1")
    with by_hand(path, "UPDATE attempts SET amount = 'NaN'"):
        pass
    with pytest.raises(ConfigError, match=r"the ledger .*instead of an amount"):
        total(ledger)


def test_a_file_migrates_forward_and_never_back(ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spend(ledger, "0.1")
    ledger.close()
    with monkeypatch.context() as newer:
        newer.setattr(ledger_file, "_VERSIONS", (*ledger_file._VERSIONS, "CREATE TABLE more (x);"))
        spend(ledger, "0.2")
        ledger.close()
    with pytest.raises(ConfigError, match=r"version 2, .*newer.*upgrade"):
        entry(ledger, "1", limit("9")).reserve()
    with by_hand(path, "PRAGMA user_version = 1"):
        assert money(ledger) == ("0.3", "0")


def test_a_ledger_of_older_versions_is_read_and_written(ledger: Ledger, path: Path, clock: SimpleNamespace) -> None:
    """It has columns that are no longer used, one request that is sent and one that is reserved."""
    path.parent.mkdir()
    with by_hand(path, OLD_LEDGER.read_text()):
        assert money(ledger) == ("0.2", "0.65")
    spend(ledger, "0.1", limit("1.85"))
    clock.now += 901
    assert money(ledger) == ("0.7", "0")
    ledger.hit(SCOPE, "t", "m", Decimal("0.2"))
    before = total(ledger)
    assert (before.calls, before.hits, before.cost, before.saved_by_cache) == (3, 2, Decimal("0.7"), Decimal("0.3"))
    clock.now += DAY
    assert prune(ledger, day_of(clock.now)) == 3
    assert total(ledger) == before


def test_a_full_disk_forgets_no_money(ledger: Ledger) -> None:
    def no_room() -> None:
        one = sent(ledger, "0.5")
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        with pytest.raises(ConfigError, match="df -h"):
            entry(ledger, "0.5", limit("9")).reserve()
        one.settle(attempt("0.2"))
        ledger.hit(SCOPE, "t", "m", Decimal("0.1"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ledger.close()

    spend(ledger, "0.1")
    assert in_a_child(no_room) == 0
    assert (money(ledger), total(ledger).hits) == (("0.3", "0"), 1)


def test_a_fork_takes_no_connection_along(ledger: Ledger, path: Path) -> None:
    """Parent and child use the same manager. Neither trusts the other's locks, or writes the other's hits."""
    spend(ledger, "0.1")
    ledger.hit(SCOPE, "t", "m", Decimal(1))
    gc.collect()  # a connection that is finalised while another thread forks would hold SQLite's own locks
    going = threading.Event()

    def busy() -> None:
        while not going.is_set():
            spend(ledger, "0")

    def child() -> None:
        assert not [fd for fd in Path("/proc/self/fd").iterdir() if fd.exists() and fd.resolve() == path]
        for _ in range(5):
            spend(ledger, "0.01")
        ledger.close()

    assert in_a_child(child) == 0
    with ThreadPoolExecutor(1) as pool:
        pool.submit(busy)
        children = [in_a_child(child) for _ in range(3)]
        going.set()
    assert children == [0] * 3
    assert (total(ledger).hits, money(ledger)) == (1, ("0.3", "0"))


def test_hits_are_kept_in_memory_and_written_together(ledger: Ledger, path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ledger.hit(SCOPE, "t", "m", Decimal("0.01")), range(100)))
    assert (ledger.session.saved, path.exists()) == (1, False)
    spend(ledger, "0.1")
    with by_hand(path) as db:
        assert db.execute("SELECT hits FROM daily").fetchall() == [(100,)]
        for _ in range(300):
            ledger.hit(SCOPE, "t", "m", Decimal("0.01"))
        assert 300 < db.execute("SELECT hits FROM daily").fetchone()[0] < 400
    ledger.close()
    found = total(Ledger(path))
    assert (found.hits, found.saved_by_cache, found.calls, ledger.session.saved) == (400, 4, 1, 4)


def test_money_is_exact_to_a_picodollar() -> None:
    for amount in ("0", "0.000000000001", "0.1", "1200", "999999.999999999999"):
        assert f"{dollars(pico(Decimal(amount)) or 0):f}" == amount
    assert (pico(Decimal("1e-30")), pico(Decimal("1e-30"), down=True), pico(Decimal("1e30"))) == (1, 0, 10**18)
