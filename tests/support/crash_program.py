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
from collections import Counter, defaultdict
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
Done = list[tuple[str, int]]


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


def killed(home: Path, start: int, after: float) -> Done:
    """Runs a child for `after` seconds, kills it, and returns what it finished."""
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
        lines = [line.split() for line in reported]
    return [(what, int(number)) for what, number in lines]


def check(home: Path, done: Done) -> None:
    """Opens everything; all that was finished must be there, and the cache must still take answers."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for what, number in done:
        numbers[what].append(number)
    with contextlib.closing(Ledger(home / "ledger.sqlite3", clock=lambda: time.time() + 10_000)) as ledger:
        spent, aside = ledger.standing("s")
    assert spent >= len(numbers["settled"]) * COST, f"the ledger says {spent}"
    assert not aside, f"{aside} is set aside for ever"
    with contextlib.closing(AnswerCache(home / "cache")) as cache:
        for number in numbers["cached"][-500:]:
            text = cache.read(f"{number:064x}", str)
            assert text, f"answer {number} is lost"
            assert text.startswith(f"answer {number} "), f"answer {number} is {text!r:.40}"
        cache.write("f" * 64, "after", SETTINGS, task="t")
        assert cache.read("f" * 64, str) == "after"
    value = load_config(home / "llm.yaml").tasks["t"].max_tokens
    assert value >= max(numbers["edited"], default=0), f"llm.yaml says {value}"
    log = home / "log" / "events.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    assert {json.loads(line)["n"] for line in lines} >= {*numbers["logged"]}
    ModelStore(home / "models").list()


def main(home: Path, rounds: int, seed: int) -> None:
    random.seed(seed)
    (home / "llm.yaml").write_text("version: 1\ntasks:\n  t: {models: [openai/m], max_tokens: 1}\n")
    done: Done = []
    for number in range(rounds):
        sys.stderr.write(f"round {number} of seed {seed}\n")
        done += killed(home, number * 100_000, random.uniform(0.01, 0.25))
        for one in home.rglob("*.tmp"):
            one.unlink()
        check(home, done)
    sys.stdout.write(json.dumps(Counter(what for what, _ in done)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
