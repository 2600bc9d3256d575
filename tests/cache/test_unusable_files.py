"""With files that are locked or read-only, or on a full disk, answers are still returned, in time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import faults
import pytest
from manager_kit import KEY, Api, Make, ask, manager, model, program
from unwritable_program import obey_modes

from testronaut_llm import LLMManager, errors
from testronaut_llm.cache import files
from testronaut_llm.cache.entry import default_folder
from testronaut_llm.cache.files import FILE
from testronaut_llm.support.paths import data_dir

pytestmark = pytest.mark.usefixtures("provider_keys")

each_mode = pytest.mark.parametrize("mode", ["complete", "astream"])
BUDGET = {"per_day": "1", "scope": "locked"}
LONGEST = 1.0
"""Seconds between two beats of a loop that nobody stops; the machine itself may be busy for a while."""


def hold(file: Path | None = None) -> sqlite3.Connection:
    """Locks a file, or the ledger, as another program does."""
    db = sqlite3.connect(file or data_dir() / "ledger.sqlite3", isolation_level=None, check_same_thread=False)
    db.execute("BEGIN EXCLUSIVE")
    return db


async def release(holder: sqlite3.Connection, after: float) -> None:
    await asyncio.sleep(after)
    holder.close()


def _llm(api: Api, budget: dict[str, Any] | None = None, cache: str = "off") -> LLMManager:
    return manager({"a": model("openai", api)}, cache=cache, retries=0, max_tokens=100, budget=budget)


@asynccontextmanager
async def _beating(mode: str) -> AsyncIterator[None]:
    """Asserts that the event loop is never stopped for long, unless the mode is of the sync kind."""
    beats = [time.monotonic()]

    async def beat() -> None:
        while True:
            await asyncio.sleep(0.01)
            beats.append(time.monotonic())

    heart = asyncio.create_task(beat())
    yield
    await asyncio.sleep(0.02)
    heart.cancel()
    assert not mode.startswith("a") or max(later - one for one, later in pairwise(beats)) < LONGEST


@each_mode
async def test_a_budget_that_is_locked_is_waited_for_until_the_deadline(api: Make, mode: str) -> None:
    a = api("a", faults.good())
    with _llm(a, BUDGET) as llm:
        await ask(llm, mode)
        with closing(hold()) as holder:
            async with _beating(mode):
                began = time.monotonic()
                calls = [ask(llm, mode, deadline=1) for _ in range(4 if mode.startswith("a") else 1)]
                failed = await asyncio.gather(*calls, return_exceptions=True)
                took = time.monotonic() - began
            assert all(isinstance(error, errors.LLMError) for error in failed)
            assert "fuser" in str(failed[0])
            assert 0.9 < took < 4
            assert len(a.asked) == 1
            answer = asyncio.to_thread(lambda: asyncio.run(ask(llm, mode)))
            assert (await asyncio.gather(answer, release(holder, after=0.3)))[0].text
        assert llm.spend().total.calls == 2


@each_mode
async def test_a_paid_answer_is_handed_out_at_once_and_settled_later(api: Make, mode: str) -> None:
    a = api("a", faults.good())
    holders: list[sqlite3.Connection] = []

    def answer_and_hold(exchange: Any) -> None:
        holders.append(hold())
        faults.good()(exchange)

    with _llm(a, BUDGET) as llm:
        await ask(llm, mode)
        a.plan(answer_and_hold)
        async with _beating(mode):
            began = time.monotonic()
            answer = await ask(llm, mode)
            assert time.monotonic() - began < 3
        assert answer.text
        assert answer.cost
        assert llm.session.cost == 2 * answer.cost
        holders[0].close()
        assert (llm.spend().total.cost, llm.spend().total.calls) == (2 * answer.cost, 2)


@pytest.mark.parametrize(("mode", "held"), [("close", 0.3), ("aclose", 1.2 * LONGEST)])
async def test_what_was_not_settled_is_settled_at_the_end(api: Make, mode: str, held: float) -> None:
    llm = _llm(api("a", faults.good()))
    llm.complete("t", "hi")
    with closing(hold()) as holder:
        for _ in range(3):
            llm.complete("t", "hi")
        async with _beating(mode):
            ending = llm.aclose() if mode == "aclose" else asyncio.to_thread(llm.close)
            await asyncio.gather(ending, release(holder, held))
    with closing(hold()) as db:
        assert db.execute("SELECT state, outcome FROM attempts").fetchall() == [(2, "answer")] * 4


@each_mode
async def test_a_store_that_is_held_stops_no_loop(api: Make, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_TIMEOUT", 1.5 * LONGEST)
    with _llm(api("a", faults.good()), cache="use") as llm:
        await ask(llm, mode, "first")
        with closing(hold(default_folder() / FILE)):
            async with _beating(mode):
                prompts = [f"number {n}" for n in range(4 if mode.startswith("a") else 1)]
                answers = await asyncio.gather(*(ask(llm, mode, prompt) for prompt in prompts))
        assert all(answer.text for answer in answers)


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="root has to give up its powers for this")
PROGRAM = Path(__file__).parents[1] / "support" / "unwritable_program.py"
SIZES = (0, 20_000)  # bytes that a file may hold on the disk that is full
Results = list[tuple[dict[str, tuple[int, str]], str]]

READS = {
    *("complete", "again", "stream", "paid", "batch", "run t Hello.", "run t Hello. --stream --no-cache"),
    *("route t Hello.", "check", "compare Hello. --models m --task t"),
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
    # A limited write would leave incomplete modules for the next import.
    env = {**os.environ, "OPENAI_API_KEY": KEY, "PYTHONDONTWRITEBYTECODE": "1"}
    done = program(PROGRAM, folder, *SIZES, env=env, preexec_fn=obey_modes)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((folder / "locked" / "llm.yaml").read_text()) == text
    assert sorted(one.name for one in (folder / "locked").iterdir()) == ["llm.yaml", "table.json"]
    return json.loads(done.stdout)


def warnings(said: str) -> list[str]:
    return sorted(re.findall(r"^(\w+_\w+): ", said, re.MULTILINE))


@on_linux
@pytest.mark.parametrize(
    ("home", "works"),
    [(0, READS | HAS_NOTHING), (1, READS | {"models pull embedded/tiny-random"})],
    ids=["unused", "used"],
)
def test_nothing_is_lost_but_what_cannot_be_written(results: Results, home: int, works: set[str]) -> None:
    found, said = results[home]
    assert {name for name, (code, _) in found.items() if code == 0} == works
    assert [found[name][1] for name in ("complete", "stream", "paid")] == ["fine"] * 3
    for name in found.keys() - works:
        code, output = found[name]
        assert code in (1, 2), output
        assert output.count("\n") == 1, output
        assert output.startswith("error (")
        assert "prices no model" not in output
        assert "/" in output or "cannot write" in output
    assert warnings(said) == ["cache_trouble", "ledger_unavailable", "token_memory_not_saved"]
    assert "make it writable: chmod -R u+rwX" in said


@on_linux
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
