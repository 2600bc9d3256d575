"""Many calls leave as much open as one, and each is one request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import faults
import pytest
from manager_kit import KEYS, apis, model

MANY = """
import time, asyncio, gc, json, os, threading
from testronaut_llm import LLMManager
from testronaut_llm.testing.network import network_guard

def here():
    time.sleep(1.5)  # idle worker threads end after a second
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()

with network_guard() as guard, LLMManager("llm.yaml") as llm:
    def sync(times):
        for _ in range(times):
            for wire in ("openai", "anthropic"):
                llm.complete(wire, "hi")
                list(llm.stream(wire, "hi"))

    async def one():
        for wire in ("openai", "anthropic"):
            await llm.acomplete(wire, "hi")
            [piece async for piece in llm.astream(wire, "hi")]

    def loops(times):
        for _ in range(times):
            asyncio.run(one())

    sync(5); loops(5)
    first = here()
    sync(50); loops(20)
    seen = [first, here(), len(guard.connects), len(guard.blocked)]
print(json.dumps(seen))
"""


def test_many_calls_leave_as_much_open_as_one(tmp_path: Path) -> None:
    """Descriptors and threads stay flat over calls and loops, without a warning; one call is one request (P23)."""
    with apis() as api:
        a = api("a", faults.good())
        wires = ("openai", "anthropic")
        tasks = {wire: {"models": [wire], "cache": "off"} for wire in wires}
        models = {wire: model(wire, a) for wire in wires}
        (tmp_path / "llm.yaml").write_text(json.dumps({"models": models, "tasks": tasks}))
        run = subprocess.run(
            [sys.executable, "-W", "error::ResourceWarning", "-c", MANY],
            cwd=tmp_path,
            env={**os.environ, **dict.fromkeys(KEYS, "sk-x"), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    first, last, connects, blocked = json.loads(run.stdout)
    calls = 4 * (5 + 5 + 50 + 20)
    assert len(a.asked) == calls
    assert connects <= calls
    assert blocked == 0
    assert all(after <= before + 4 for before, after in zip(first, last, strict=True))
    assert "ResourceWarning" not in run.stderr
    assert "never awaited" not in run.stderr


UNCLOSED = """
import os, sys, threading
from testronaut_llm import LLMManager
from testronaut_llm.testing.fake import FakeGateway
gateway = FakeGateway()
gateway.reply("hi")
kept = LLMManager(gateway=gateway)
def ask(*_):
    assert [kept.complete("t", "p").cached for _ in range(2)][1]
    assert kept.spend().rows is not None
ask()
other = threading.Thread(target=ask)
other.start()
other.join()
LLMManager(gateway=gateway).complete("t", "dropped")
if sys.argv[1] == "fork":
    child = os.fork()
    if child == 0:
        kept.complete("t", "in the child")
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    kept.complete("t", "in the parent")
"""


@pytest.mark.parametrize("way", ["exit", "fork"])
def test_a_manager_that_nobody_closes_warns_of_nothing(tmp_path: Path, way: str) -> None:
    """No SQLite connection of a program, its threads or its forked child is left open, as Python 3.13 would say."""
    row = {"model": "openai/fake", "price": {"input": 1, "output": 1}}
    (tmp_path / "llm.yaml").write_text(json.dumps({"models": {"m": row}, "tasks": {"t": {"models": ["m"]}}}))
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-W", "error::ResourceWarning", "-c", UNCLOSED, way],
        cwd=tmp_path,
        env={**os.environ, "OPENAI_API_KEY": "sk-x", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
