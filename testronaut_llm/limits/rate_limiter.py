"""Decides which call may send now: requests and tokens a minute, concurrent requests. Calls wait in order.

It runs on the manager's event loop, without threads and I/O. The limits hold for all calls of one manager.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Self

from testronaut_llm.errors import ConnectionFailedError, LLMError, Verdict
from testronaut_llm.limits.rules import Gate, Rule, Use
from testronaut_llm.support.text import seconds_of

LONGEST_PAUSE = 120.0
"""Longest pause in seconds; a provider that wants a longer one is asked again after this."""
_KIND = "(requests|tokens|input-tokens|output-tokens)"
_REMAINING = re.compile(f"x-ratelimit-remaining-{_KIND}|anthropic-ratelimit-{_KIND}-remaining")


class Ticket:
    """The place of an attempt in the queue, then its slot, until `leave` or the end of `with`.

    Its caller asks for its `turn`, and again after `wait`.
    """

    def __init__(self, limiter: RateLimiter, gates: Sequence[Gate], tokens: int) -> None:
        self._limiter = limiter
        self.gates, self.tokens = tuple(gates), tokens
        self.uses: list[Use] = []  # of its gates, once it holds its slot
        self.model = self.gates[-1] if gates else Gate(Rule(name=""))  # the last one is the model's own
        self._cooldowns = self.model.cooldowns
        self.holds = self.has_left = False
        self.is_probe = False  # True if it is the one request after a cooldown
        self.is_alone = False  # True if it waits for its own model: a pause or a cooldown
        self.woken = asyncio.Event()  # set when the turn is worth asking for again
        self.look_in = math.inf  # seconds until the next check; inf if only another request makes room
        self.at_least, self.blocked_by = 0.0, ""  # seconds that it will wait, and for what

    def turn(self) -> bool:
        """True if it may send now; then it holds its slot."""
        if not self.holds:
            now = self._limiter.clock()  # one for both, since a pause may end between two
            self._limiter.line.setdefault(self)
            self._limiter.dispatch(now)
            if not self.holds:
                self.woken.clear()
                self._limiter.outlook(self, now)
        return self.holds

    async def wait(self, seconds: float) -> None:
        """Waits until the turn is worth asking for again, at most so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(seconds, self.look_in))):
                await self.woken.wait()

    @property
    def in_cooldown(self) -> bool:
        """True if its model is in a cooldown after failures."""
        return self.model.cooldowns > 0

    @property
    def is_in_vain(self) -> bool:
        """True if another cooldown of the model started while this waited."""
        return self.model.cooldowns > max(1, self._cooldowns)

    def leave(
        self,
        *,
        sent: bool = False,
        tokens: int | None = None,
        error: LLMError | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Frees place and slot; a second call does nothing.

        A request that was not `sent` does not count. `tokens` are None if unknown, `headers` (names in
        lower case) if there was no response.
        """
        if self.has_left:
            return
        self.has_left = True
        self._limiter.line.pop(self, None)
        for gate, use in zip(self.gates, self.uses, strict=self.holds):
            gate.give_back(use, tokens, sent=sent)
        if sent or error is not None:
            self._learn(error, headers if sent else None)
        self._limiter.dispatch(self._limiter.clock(), wake=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def _learn(self, error: LLMError | None, headers: Mapping[str, str] | None) -> None:
        """Notes the pause that the provider asks for, and a failure or a reply of the model."""
        gate, now = self.model, self._limiter.clock()
        passing = error if error is not None and type(error).verdict is Verdict.RETRY else None
        if isinstance(error, ConnectionFailedError) and error.verdict is Verdict.NEXT:
            passing = None  # a wrong proxy variable of this machine: no pause helps
        asked = min(LONGEST_PAUSE, passing.retry_after or 0.0) if passing else 0.0
        pause = max(asked, min(LONGEST_PAUSE, pause_of(headers or {}, self.tokens, time.time())))
        if pause > 0:
            gate.paused_until = max(gate.paused_until, now + pause)
        if passing:
            gate.failed(passing.code, now, asked=asked, probe=self.is_probe)
        elif headers is not None:  # an answer, or the request was refused
            gate.failures = gate.cooldowns = 0


class RateLimiter:
    """The limits of one manager. Its clock counts seconds and never goes back.

    Other threads may call `ticket`, `cooldown` and `outlook`, which change nothing that is counted.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.gates: dict[str, Gate] = {}
        self.line: dict[Ticket, None] = {}
        self._process = os.getpid()

    def ticket(self, rules: Sequence[Rule], model: str, tokens: int) -> Ticket:
        """Returns a place at the end of the queue, taken when its turn is first asked for.

        All `rules` apply. `model` is the key of pauses and cooldowns, `tokens` the most that the attempt may use.
        """
        if self._process != os.getpid():  # the running requests are the parent's
            self._process, self.gates, self.line = os.getpid(), {}, {}
        gates = []
        for rule in (*rules, Rule(name=model)):
            gates.append(self.gates.get(rule.name) or self.gates.setdefault(rule.name, Gate(rule)))
            gates[-1].rule = rule  # `llm.yaml` may have changed
        return Ticket(self, gates, tokens)

    def cooldown(self, model: str) -> tuple[bool, float]:
        """Returns (True if the model is in a cooldown after failures, seconds until it may be asked)."""
        gate = self.gates.get(model)
        return (gate.cooldowns > 0, gate.pause(self.clock())) if gate else (False, 0.0)

    def outlook(self, ticket: Ticket, now: float) -> None:
        """Notes the shortest time that a ticket waits, if all before it stay, and for what."""
        ticket.look_in, ticket.at_least, ticket.blocked_by = 0.0, 0.0, ""
        before = tuple(itertools.takewhile(lambda other: other is not ticket, tuple(self.line)))
        for gate in ticket.gates:
            ahead = sum(gate in other.gates for other in before)
            at_least = gate.wait(ticket.tokens, now, ahead=ahead, at_least=True)
            wait = gate.wait(ticket.tokens, now)
            if at_least > ticket.at_least or ((wait or ahead) and not ticket.blocked_by):
                ticket.at_least, ticket.blocked_by = at_least, gate.words(now)
                ticket.is_alone = gate is ticket.model
            ticket.look_in = max(ticket.look_in, wait)
        ticket.look_in = ticket.look_in or math.inf

    def dispatch(self, now: float, *, wake: bool = False) -> None:
        """Gives slots to all tickets that may send, and wakes them; with `wake` also the first in line of each limit.

        A ticket that waits blocks later ones on the limits that it waits for, and on no others.
        """
        if not self.line:
            return
        closed: set[Gate] = set()
        for ticket in tuple(self.line):
            shut = [g for g in ticket.gates if g in closed or g.wait(ticket.tokens, now) > 0]
            if not shut:
                del self.line[ticket]
                ticket.holds, ticket.is_probe = True, ticket.model.cooldowns > 0
                ticket.uses = [gate.take(ticket.tokens, now) for gate in ticket.gates]
            if not shut or (wake and not closed.issuperset(shut)):
                ticket.woken.set()
            closed.update(shut)


def pause_of(headers: Mapping[str, str], tokens: int, now: float) -> float:
    """Returns the seconds until the provider has room for one more such request; 0 if it has, or if unknown.

    The names of the headers are in lower case, `now` is seconds since 1970.
    """
    longest = 0.0
    for name, value in headers.items():
        has, needed = _number(value), 1 if "requests" in name else tokens
        if _REMAINING.fullmatch(name) and has is not None and has < needed:
            limit, reset = (headers.get(name.replace("remaining", what), "").strip() for what in ("limit", "reset"))
            pause, most = _seconds(reset, now), _number(limit) or 0.0
            if most > has > 0:  # it fills up evenly
                pause *= min(1.0, (needed - has) / (most - has))
            longest = max(longest, pause)
    return longest


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _seconds(text: str, now: float) -> float:
    """Returns the seconds of `6m0s`, `20ms`, plain seconds, seconds since 1970 or a date; 0 if it is none of these."""
    seconds = seconds_of(text)
    if seconds is None:
        with suppress(ValueError):
            date = datetime.fromisoformat(text.upper())
            seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    seconds = seconds or 0.0
    return max(0.0, seconds - now if seconds > now / 2 else seconds)
