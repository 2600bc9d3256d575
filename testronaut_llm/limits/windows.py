"""One limit and what goes on under it: the requests and tokens of the last minute, and the requests under way.

A model that failed several times in a row has a cooldown, in which nobody asks it. Then one request goes through, and
ends that or starts a longer cooldown.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

MINUTE = 60.0

FAILURES = 5
"""Failures in a row after which a cooldown starts."""

FIRST_COOLDOWN, LONGEST_COOLDOWN = 5.0, 60.0
"""Seconds. Each request that fails after a cooldown doubles the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A limit of a model: requests and tokens (prompt and answer) a minute, requests at once.

    Rules of the same name (as a person writes it: `limits.openai`) share the limit. An `implied` one is a default.
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
    """An amount taken from a window at a time (seconds). `known` is True once it is no longer an upper bound."""

    at: float
    amount: int
    known: bool = False
    gone: bool = False


@dataclass(slots=True)
class Window:
    """What has been taken in the last minute."""

    used: int = 0
    taken: deque[Taken] = field(default_factory=deque)

    def wait(self, needed: int, limit: int, now: float, *, at_least: bool = False) -> float:
        """Returns the seconds until so much more fits; `needed` may be the sum of several.

        With `at_least`, requests under way count as nothing: most use less than their upper bound.
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
        """Replaces an amount by the true one; None if nobody knows it."""
        if amount is not None and not one.gone:
            self.used += amount - one.amount
            one.amount, one.known = amount, True


@dataclass(slots=True, eq=False)
class Gate:
    """One limit, or one model. Times are in seconds on the clock of the limiter."""

    rule: Rule
    requests: Window = field(default_factory=Window)
    tokens: Window = field(default_factory=Window)
    running: int = 0  # requests under way
    paused_until: float = 0.0  # as the provider asked
    failures: int = 0  # in a row, of the kind that may pass by itself: no reply, 429, 5xx
    last_failure: str = ""  # its code
    cooldowns: int = 0  # in a row; 0 while the model works
    cooldown_until: float = 0.0

    @property
    def is_full(self) -> bool:
        """True if as many requests run as may run at once; after a cooldown that is one."""
        return self.running >= (1 if self.cooldowns else self.rule.concurrency or math.inf)

    def wait(self, tokens: int, now: float, *, ahead: int = 0, at_least: bool = False) -> float:
        """Returns the seconds until the rates allow a request, with so many in line before it."""
        wait = max(0.0, self.pause(now))
        if self.rule.rpm is not None:
            wait = max(wait, self.requests.wait(ahead + 1, self.rule.rpm, now))
        if self.rule.tpm is not None:
            wait = max(wait, self.tokens.wait(self.weight(tokens), self.rule.tpm, now, at_least=at_least))
        return wait

    def pause(self, now: float) -> float:
        """Returns the seconds left of the provider's pause, or of the cooldown."""
        return max(self.paused_until, self.cooldown_until if self.cooldowns else 0.0) - now

    def weight(self, tokens: int) -> int:
        """Returns what a request counts for. One larger than the limit waits for an empty minute, not for ever."""
        return min(tokens, self.rule.tpm) if self.rule.tpm is not None else 0

    def answered(self) -> None:
        """Ends the cooldowns: the model replied, with an answer or with a refusal of the request."""
        self.failures = self.cooldowns = 0

    def failed(self, code: str, now: float, *, asked: float, probe: bool) -> None:
        """Counts a failure; the provider `asked` for so many seconds of pause.

        After a cooldown only the `probe`, the one request that was let through, says anything new.
        """
        self.failures, self.last_failure = self.failures + 1, code
        if probe if self.cooldowns else self.failures >= FAILURES:
            self.cooldowns += 1
            self.cooldown_until = now + max(asked, min(LONGEST_COOLDOWN, FIRST_COOLDOWN * 2.0 ** (self.cooldowns - 1)))

    def words(self, now: float) -> str:
        """Returns what one waits for here: `limits.openai (rpm: 500)`."""
        if self.cooldowns:
            return f"its cooldown after {self.failures} failures in a row (last: {self.last_failure})"
        return "the pause that its provider asks for" if self.paused_until > now else str(self.rule)
