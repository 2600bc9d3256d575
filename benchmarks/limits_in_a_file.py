"""Measures the cost of a rate limit for a call: in memory, and in a file that processes share.

    python benchmarks/limits_in_a_file.py [--rpm 500] [--calls 2000] [--rounds 5]

In memory: the limiter gives a turn and takes it back, after a minute of `rpm` requests. In a file: what a limit across
processes would need, with the SQLite settings of the ledger: one transaction that counts the requests and tokens of the
last minute and adds one, and one that writes the tokens used. No call waits for another one.
"""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench import Row, by_turns, options, show

from testronaut_llm.limits.rate_limiter import RateLimiter
from testronaut_llm.limits.rules import Rule

TOKENS, USED = 4000, 700


def in_memory(rpm: int, calls: int) -> float:
    """Returns the seconds of a call under a limit that has room for one more request."""
    number = 0
    limiter = RateLimiter(lambda: number * 60 / rpm)
    rules = (Rule(name="limits.p", rpm=rpm + 2, tpm=TOKENS * (rpm + 2)),)
    for number in range(rpm + calls):
        if number == rpm:
            began = time.perf_counter()
        ticket = limiter.ticket(rules, "m", TOKENS)
        assert ticket.turn()
        ticket.leave(sent=True, tokens=USED, headers={})
    return (time.perf_counter() - began) / calls


def in_a_file(rpm: int, calls: int) -> float:
    """Returns the seconds of a call that reads the last requests from a table."""
    with tempfile.TemporaryDirectory() as folder, sqlite3.connect(Path(folder, "limits.sqlite3")) as db:
        db.isolation_level = None
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("CREATE TABLE requests (id INTEGER PRIMARY KEY, endpoint TEXT, at REAL, tokens INTEGER)")
        db.execute("CREATE INDEX latest ON requests (endpoint, at)")
        for number in range(rpm + calls):
            if number == rpm:
                began = time.perf_counter()
            now = number * 60 / rpm
            db.execute("BEGIN IMMEDIATE")
            latest = "SELECT count(*), sum(tokens) FROM requests WHERE endpoint = 'limits.p' AND at > ?"
            assert db.execute(latest, (now - 60,)).fetchone()[0] <= rpm
            row = db.execute("INSERT INTO requests (endpoint, at, tokens) VALUES ('limits.p', ?, ?)", (now, TOKENS))
            db.execute("COMMIT")
            db.execute("UPDATE requests SET tokens = ? WHERE id = ?", (USED, row.lastrowid))
        return (time.perf_counter() - began) / calls


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Yields one row."""
    memory, file = partial(in_memory, given.rpm, given.calls), partial(in_a_file, given.rpm, given.calls)
    what = f"a rate limit of {given.rpm} requests a minute: in memory, compared with in a file"
    yield Row(what, *by_turns(given.rounds, memory, file), "<= 1")


if __name__ == "__main__":
    show(rows(options(__doc__, rpm=500, calls=2000, rounds=5)))
