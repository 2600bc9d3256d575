"""Many calls leave as much open as one, and each is one request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import faults
import pytest
from manager_kit import KEY, apis, model

MANY = """
import time, asyncio, gc, json, os, sys, threading
from testronaut_llm import LLMManager
from testronaut_llm.testing.network import network_guard

def here():
    time.sleep(1.5)  # threads that wait for another attempt end after a second
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()

with network_guard() as guard, LLMManager("llm.yaml") as llm:
    def sync(times):
        for _ in range(times):
            llm.complete("t", "hi")
            list(llm.stream("t", "hi"))

    async def one():
        await llm.acomplete("t", "hi")
        [piece async for piece in llm.astream("t", "hi")]

    def loops(times):
        for _ in range(times):
            asyncio.run(one())

    sync(5); loops(5)
    first = here()
    sync(int(sys.argv[1])); loops(int(sys.argv[2]))
    last = here()
    seen = [first, last, len(guard.connects), len(guard.blocked)]
print(json.dumps(seen))
"""


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
def test_many_calls_leave_as_much_open_as_one(wire: str, tmp_path: Path) -> None:
    """Descriptors and threads stay flat over calls and loops, without a warning; one call is one request (P23)."""
    sync, loops = (100, 25) if wire == "openai" else (20, 10)
    with apis() as api:
        a = api("a", faults.good())
        tasks = {"t": {"models": ["m"], "cache": "off"}}
        (tmp_path / "llm.yaml").write_text(json.dumps({"models": {"m": model(wire, a)}, "tasks": tasks}))
        environment = {**os.environ, "OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY, "AZURE_API_KEY": KEY}
        run = subprocess.run(
            [sys.executable, "-W", "error::ResourceWarning", "-c", MANY, str(sync), str(loops)],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        first, last, connects, blocked = json.loads(run.stdout)
        calls = 2 * (sync + loops + 10)
        assert len(a.asked) == calls
        assert connects <= calls
        assert blocked == 0
        assert last[0] <= first[0] + 4
        assert last[1] <= first[1] + 4
        assert "ResourceWarning" not in run.stderr
        assert "never awaited" not in run.stderr
