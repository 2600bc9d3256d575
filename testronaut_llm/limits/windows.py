"""One limit: the requests of the last minute, those under way, and the cooldown of a model after failures.

A model that failed several times in a row has a cooldown, in which it gets no request. Then one request goes through,
and ends the cooldowns or starts a longer one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

MINUTE = 60.0

FAILURES = 5
"""Failures in a row after which a cooldown starts."""

FIRST_COOLDOWN, LONGEST_COOLDOWN = 5.0, 60.0
"""Seconds. Each request that fails after a cooldown doubles the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A limit of a model: requests and tokens (prompt and answer) a minute, concurrent requests.

    Rules of the same name (as a person writes it: `limits.openai`) share the limit. An `implied` one is a default.
    """

    name: str
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    implied: bool = False

    def __str__(self) -> str:
        limits = {"rpm": self.rpm, "tpm": self.tpm, "concurrency": self.concurrency}
        parts = ", ".join(f"{name}: {limit:,}" for name, limit in limits.items() if limit)
        return f"{self.name} ({parts}{', by default' if self.implied else ''})"


@dataclass(slots=True, eq=False)
class Use:
    """What one request uses of its limits; `tokens` are an upper bound until they are `known`."""

    tokens: int
    requests: int = 1
    at: float = 0.0
    known: bool = False


@dataclass(slots=True, eq=False)
class Gate:
    """One limit, or one model. Times are seconds on the clock of the limiter."""

    rule: Rule
    uses: deque[Use] = field(default_factory=deque)  # of the last minute, maybe longer
    running: int = 0  # requests under way
    paused_until: float = 0.0  # as the provider asked
    failures: int = 0  # in a row, of the kind that may pass: no reply, 429, 5xx
    last_failure: str = ""
    cooldowns: int = 0  # in a row; 0 while the model works
    cooldown_until: float = 0.0

    @property
    def is_full(self) -> bool:
        """True if no more requests may run at once; after a cooldown one may."""
        return self.running >= (1 if self.cooldowns else self.rule.concurrency or math.inf)

    def take(self, use: Use, now: float) -> None:
        """Starts a request."""
        self.running += 1
        if self.rule.rpm is not None or self.rule.tpm is not None:
            while self.uses and self.uses[0].at + MINUTE <= now:
                self.uses.popleft()
            self.uses.append(use)

    def wait(self, tokens: int, now: float, *, ahead: int = 0, at_least: bool = False) -> float:
        """Returns the seconds until the rates allow a request, with so many in line before it.

        With `at_least`, the tokens of requests under way count as nothing: most use less than their upper bound.
        """
        rpm, tpm, wait = self.rule.rpm, self.rule.tpm, self.pause(now)
        if rpm is None and tpm is None:
            return wait
        uses = [one for one in tuple(self.uses) if one.at + MINUTE > now]  # another thread may read: `tuple` is safe
        if rpm is not None:
            wait = max(wait, _until([(one.at, one.requests) for one in uses], ahead + 1, rpm, now))
        if tpm is not None:  # one that is larger than the limit counts as the limit, or it would wait for ever
            taken = [(one.at, min(one.tokens, tpm)) for one in uses if one.known or not at_least]
            wait = max(wait, _until(taken, min(tokens, tpm), tpm, now))
        return wait

    def pause(self, now: float) -> float:
        """Returns the seconds left of the provider's pause, or of the cooldown."""
        return max(0.0, max(self.paused_until, self.cooldown_until if self.cooldowns else 0.0) - now)

    def failed(self, code: str, now: float, *, asked: float, probe: bool) -> None:
        """Counts a failure; the provider `asked` for so many seconds of pause.

        After a cooldown only the `probe`, the one request that was let through, says anything new.
        """
        self.failures, self.last_failure = self.failures + 1, code
        if probe if self.cooldowns else self.failures >= FAILURES:
            self.cooldowns += 1
            self.cooldown_until = now + max(asked, min(LONGEST_COOLDOWN, FIRST_COOLDOWN * 2.0 ** (self.cooldowns - 1)))

    def words(self, now: float) -> str:
        """Returns what a request waits for here: `limits.openai (rpm: 500)`."""
        if self.cooldowns:
            return f"its cooldown after {self.failures} failures in a row (last: {self.last_failure})"
        return "the pause that its provider asks for" if self.paused_until > now else str(self.rule)


def _until(taken: Sequence[tuple[float, int]], needed: int, limit: int, now: float) -> float:
    """Returns the seconds until `needed` more fit under a limit a minute, after what was taken (time, amount)."""
    minutes, needed = divmod(max(needed, 1) - 1, limit)  # those that go first have to leave the window again
    over, wait = sum(amount for _, amount in taken) + needed + 1 - limit, 0.0
    for at, amount in taken:
        if over <= 0:
            break
        over, wait = over - amount, at + MINUTE - now
    return wait + MINUTE * minutes
