"""A program for `test_soak.py`: `crash_program.py HOME ROUNDS SEED`.

In each round a child writes all files of the package until it gets a SIGKILL, and notes on a pipe what it finished.
Then this process opens everything, and ends with the first problem.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from testronaut_llm.cache.answer_cache import AnswerCache
from testronaut_llm.config.sections import CacheConfig
from testronaut_llm.config.source import load_config, set_value
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.money.budgets import Reservation
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.records import Attempt, Usage
from testronaut_llm.telemetry.log import EventFile

COST, SETTINGS = Decimal("0.001"), CacheConfig()
Done = dict[str, list[int]]  # the numbers of the finished writes, by their kind


def write_all(home: Path, start: int) -> Iterator[str]:
    """Writes without end; yields each finished write with the number of its round."""
    ledger, cache, log = Ledger(home / "ledger.sqlite3"), AnswerCache(home / "cache"), EventFile()
    usage, names = Usage(prompt_tokens=1), {"model": "m", "provider_model": "openai/m"}
    for number in itertools.count(start + 1):
        money = Reservation(ledger=ledger, scope="s", task="t", worst=COST * 2, **names).reserve()
        money.sent()
        money.settle(Attempt(outcome="answer", usage=usage, cost=COST, **names))
        yield f"settled {number}"
        cache.write(f"{number:064x}", f"answer {number} " + "x" * random.randrange(3000), SETTINGS, task="t")
        yield f"cached {number}"
        set_value(home / "llm.yaml", "tasks.t.max_tokens", str(number))
        yield f"edited {number}"
        log.write("log/events.jsonl", home, {"event": "x" * 100, "n": number})
        yield f"logged {number}"
        ModelStore(home / "models").touch("nobody")


def killed(home: Path, start: int, after: float, done: Done) -> None:
    """Runs a child for `after` seconds, kills it, and notes what it finished."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            for finished in write_all(home, start):
                os.write(writer, finished.encode() + b"\n")
        os._exit(1)  # a child ends only when it is killed
    os.close(writer)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, "the writer ended by itself"
    with os.fdopen(reader) as reported:
        for what, number in map(str.split, reported):
            done[what].append(int(number))


def check(home: Path, done: Done) -> None:
    """Opens everything; all that was finished must be there, and the cache must still take answers."""
    with contextlib.closing(Ledger(home / "ledger.sqlite3", clock=lambda: time.time() + 10_000)) as ledger:
        spent, aside = ledger.standing("s")
    assert spent >= len(done["settled"]) * COST
    assert not aside
    with contextlib.closing(AnswerCache(home / "cache")) as cache:
        for number in done["cached"][-500:]:
            assert str(cache.read(f"{number:064x}", str)).startswith(f"answer {number} ")
        cache.write("f" * 64, "after", SETTINGS, task="t")
        assert cache.read("f" * 64, str) == "after"
    assert load_config(home / "llm.yaml").tasks["t"].max_tokens >= max(done["edited"], default=0)
    log = home / "log" / "events.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    assert {json.loads(line)["n"] for line in lines} >= {*done["logged"]}
    ModelStore(home / "models").list()


def main(home: Path, rounds: int, seed: int) -> None:
    random.seed(seed)
    (home / "llm.yaml").write_text("version: 1\ntasks:\n  t: {models: [openai/m], max_tokens: 1}\n")
    done: Done = defaultdict(list)
    for number in range(rounds):
        sys.stderr.write(f"round {number} of seed {seed}\n")
        killed(home, number * 100_000, random.uniform(0.01, 0.25), done)
        for one in home.rglob("*.tmp"):
            one.unlink()
        check(home, done)
    sys.stdout.write(json.dumps({what: len(numbers) for what, numbers in done.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
