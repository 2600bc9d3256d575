"""Decides which call may send now: requests and tokens a minute, concurrent requests. Calls wait in order.

It runs on the manager's event loop, without threads and I/O. A call asks its ticket for its turn, and again when it is
woken or after `look_in` seconds. The limits hold for all calls of one manager.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from testronaut_llm.errors import ConnectionFailedError, LLMError, Verdict
from testronaut_llm.limits.headers import pause_of
from testronaut_llm.limits.windows import Gate, Rule, Use

LONGEST_PAUSE = 120.0
"""Longest pause in seconds; a provider that wants a longer one is asked again after this."""


class Ticket:
    """The place of an attempt in the queue, then its slot. `leave` must be called in every case."""

    def __init__(self, limiter: RateLimiter, gates: Sequence[Gate], tokens: int) -> None:
        self._limiter = limiter
        self.gates, self.tokens = tuple(gates), tokens
        self.uses: list[Use] = []  # of its gates, once it holds its slot
        self.model = self.gates[-1] if gates else Gate(Rule(name=""))  # the last one is the model's own
        self._cooldowns = self.model.cooldowns
        self.holds = self.has_left = False
        self.is_probe = False  # True if it is the one request after a cooldown
        self.is_alone = False  # True if it waits for its own model: a pause or a cooldown
        self.woken: Future[None] = _NOW  # done when the turn is worth asking for again
        self.look_in = math.inf  # seconds until the next check; inf if only another request makes room
        self.at_least, self.blocked_by = 0.0, ""  # seconds that it will wait, and for what

    def turn(self) -> bool:
        """True if it may send now; then it holds its slot."""
        if not self.holds:
            self._limiter.line.setdefault(self)
            self._limiter.dispatch()
        if not self.holds:
            if self.woken.done():
                self.woken = Future()
                self.woken.set_running_or_notify_cancel()  # so that a waiter cannot cancel it
            self._limiter.outlook(self)
        return self.holds

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
            gate.give_back(use, tokens if sent else 0, sent=sent)
        if sent or error is not None:
            self._learn(error, headers if sent else None)
        self._limiter.dispatch(wake=True)

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

    def outlook(self, ticket: Ticket) -> Ticket:
        """Notes the shortest time that a ticket waits, if all before it stay, and for what."""
        now, look_in, ticket.at_least, ticket.blocked_by = self.clock(), 0.0, 0.0, ""
        before = tuple(itertools.takewhile(lambda other: other is not ticket, tuple(self.line)))
        for gate in ticket.gates:
            ahead = sum(gate in other.gates for other in before)
            at_least = gate.wait(ticket.tokens, now, ahead=ahead, at_least=True)
            wait = gate.wait(ticket.tokens, now)
            look_in = max(look_in, wait)
            if at_least > ticket.at_least or ((wait or ahead or gate.is_full) and not ticket.blocked_by):
                ticket.at_least, ticket.blocked_by = at_least, gate.words(now)
                ticket.is_alone = gate is ticket.model
        ticket.look_in = look_in or math.inf
        return ticket

    def dispatch(self, *, wake: bool = False) -> None:
        """Gives slots to all tickets that may send, and wakes them; with `wake` also the first in line of each limit.

        A ticket that waits blocks later ones on the limits that it waits for, and on no others.
        """
        closed: set[Gate] = set()
        now = self.clock() if self.line else 0.0
        for ticket in tuple(self.line):
            gates = ticket.gates
            shut = {gate for gate in gates if gate in closed or gate.is_full or gate.wait(ticket.tokens, now) > 0}
            if not shut:
                del self.line[ticket]
                ticket.holds, ticket.is_probe = True, ticket.model.cooldowns > 0
                ticket.uses = [gate.take(ticket.tokens, now) for gate in gates]
            if (not shut or (wake and not shut <= closed)) and not ticket.woken.done():
                ticket.woken.set_result(None)
            closed |= shut


_NOW: Future[None] = Future()
_NOW.set_result(None)
