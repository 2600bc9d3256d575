"""What one limit allows: so much in any minute, so many at once; and how long a model is to be left alone."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from testronaut_llm.limits.circuit_breaker import Breaker

MINUTE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A limit that applies to a model: requests and tokens (prompt and answer) a minute, requests at once.

    Calls whose rules have the same name (what a person calls it: `limits.openai`) share the limit. One that is
    `implied` was written by nobody: whoever reads a stream that holds its slot may ask beside it.
    """

    name: str
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    implied: bool = False

    def __str__(self) -> str:
        limits = {"rpm": self.rpm, "tpm": self.tpm, "concurrency": self.concurrency}
        shown = ", ".join(f"{name}: {limit:,}" for name, limit in limits.items() if limit)
        return f"{self.name} ({shown}{', by default' if self.implied else ''})"


@dataclass(slots=True, eq=False)
class Taken:
    """What was taken from a window, and when (seconds). `known`: it is no longer the most that it may be."""

    at: float
    amount: int
    known: bool = False
    gone: bool = False


@dataclass(slots=True)
class Window:
    """What has been taken in the last minute, whichever minute one looks at."""

    used: int = 0
    taken: deque[Taken] = field(default_factory=deque)

    def wait(self, needed: int, limit: int, now: float, *, at_least: bool = False) -> float:
        """Seconds until so much more fits; `needed` may be what several take one after the other.

        With `at_least`, what is still under way counts as nothing: most requests use less than they may.
        """
        while self.taken and self.taken[0].at + MINUTE <= now:
            gone = self.taken.popleft()
            gone.gone, self.used = True, self.used - gone.amount
        used = sum(one.amount for one in self.taken if one.known) if at_least else self.used
        over = used + needed - limit
        if over <= 0:
            return 0.0
        rounds, over = divmod(over - 1, limit)  # those that go first have to leave the window again
        for one in self.taken:
            over -= one.amount if one.known or not at_least else 0
            if over < 0:
                return one.at + MINUTE * (rounds + 1) - now
        return MINUTE * (rounds + 1)

    def take(self, amount: int, now: float) -> Taken:
        """Uses up so much."""
        self.taken.append(Taken(now, amount))
        self.used += amount
        return self.taken[-1]

    def correct(self, one: Taken, amount: int | None) -> None:
        """It was another amount after all; None where nobody knows."""
        if amount is not None and not one.gone:
            self.used += amount - one.amount
            one.amount, one.known = amount, True


@dataclass(slots=True, eq=False)
class Gate:
    """One limit, or one model, and what goes on under it. `running` holds the tickets of those that send now."""

    rule: Rule
    requests: Window = field(default_factory=Window)
    tokens: Window = field(default_factory=Window)
    running: set[object] = field(default_factory=set)
    paused_until: float = 0.0
    breaker: Breaker = field(default_factory=Breaker)

    def wait(self, tokens: int, now: float, *, ahead: int = 0, at_least: bool = False) -> float:
        """Seconds until the rates allow a request, with so many in line before it. How many run is another question."""
        wait = max(0.0, self.left_alone(now))
        if self.rule.rpm is not None:
            wait = max(wait, self.requests.wait(ahead + 1, self.rule.rpm, now))
        if self.rule.tpm is not None:
            wait = max(wait, self.tokens.wait(self.weight(tokens), self.rule.tpm, now, at_least=at_least))
        return wait

    def left_alone(self, now: float) -> float:
        """Seconds of the pause that its provider asked for, or of its rest."""
        return max(self.paused_until, self.breaker.until if self.breaker.is_open else 0.0) - now

    def is_full(self, around: AbstractSet[object]) -> bool:
        """Do as many run as may run at once? `around`: the tickets of the streams that the asker is reading."""
        most = 1 if self.breaker.is_open else self.rule.concurrency or math.inf
        return len(self.running) >= most and not self.is_open_to(around)

    def is_open_to(self, around: AbstractSet[object]) -> bool:
        """Would the asker wait for itself, under a limit that nobody wrote?"""
        return self.rule.implied and not self.running.isdisjoint(around)

    def is_stuck(self, around: AbstractSet[object]) -> bool:
        """Does the asker wait for nothing but itself?"""
        return self.is_full(around) and self.running <= around

    def weight(self, tokens: int) -> int:
        """What a request counts for: one that is larger than the limit waits for an empty minute, not for ever."""
        return min(tokens, self.rule.tpm) if self.rule.tpm is not None else 0

    def words(self, now: float) -> str:
        """What one waits for here: `limits.openai (rpm: 500)`."""
        if self.breaker.is_open:
            return f"its rest after {self.breaker.failures} failures in a row (the last one: {self.breaker.last})"
        return "the pause that its provider asks for" if self.paused_until > now else str(self.rule)
