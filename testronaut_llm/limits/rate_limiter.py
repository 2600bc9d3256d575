"""Who may send now: requests and tokens a minute, and requests at once. It lets callers wait in order.

It has no thread and does no I/O. A call asks its ticket for its turn, and again when it is woken or when the ticket's
`look_in` is over. The limits hold for all calls of one manager, not across processes.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from testronaut_llm.errors import ConnectionFailedError, LLMError, Verdict
from testronaut_llm.limits.headers import pause_of
from testronaut_llm.limits.windows import Gate, Rule, Taken, Window

LONGEST_PAUSE = 120.0
"""Seconds. A provider that asks for a longer pause is asked again after this."""


class Ticket:
    """One attempt's place in line, and then its slot. It has to be left, whatever happens."""

    def __init__(self, limiter: RateLimiter, gates: Sequence[Gate], tokens: int) -> None:
        self._limiter = limiter
        self.gates, self.tokens = tuple(gates), tokens
        self.model = self.gates[-1] if gates else Gate(Rule(name=""))  # the last one is the model's own
        self.taken: list[tuple[Window, Taken, bool]] = []  # True: of requests, else of tokens
        self.holds = self.has_left = self.is_probe = False
        self.is_alone = False  # True if it waits for its own model: a pause or a cooldown
        self._cooldowns = self.model.cooldowns
        self.woken: Future[None] = _NOW  # done when the turn is worth asking for again
        self.look_at = self.look_in = math.inf  # time of the next check; inf if only a finished request makes room
        self.at_least = 0.0  # seconds that it will wait
        self.blocked_by = ""  # what it waits for, in words

    def turn(self) -> bool:
        """True if it may send now; then it holds its slot."""
        return self.holds or self._limiter._turn(self)  # noqa: SLF001 - two halves of one thing

    @property
    def is_resting(self) -> bool:
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
        """Gives place and slot back; a second time does nothing.

        A request that was not `sent` does not count. `tokens` are None if nobody knows how many it used, `headers`
        (names in lower case) if nobody waited for the response.
        """
        if not self.has_left:
            self.has_left = True
            self._limiter._leave(self, sent, tokens if sent else 0, error, headers)  # noqa: SLF001


class RateLimiter:
    """The limits of one manager. Safe for threads. Its clock is in seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._process = os.getpid()
        self._lock = threading.RLock()  # the garbage collector may close a call, and so leave, in the midst of a turn
        self._gates: dict[str, Gate] = {}
        self._line: dict[Ticket, None] = {}

    def ticket(self, rules: Sequence[Rule], model: str, tokens: int) -> Ticket:
        """Returns a place at the end of the line, taken when its turn is first asked for.

        All `rules` hold. Replies of `model` say how fast to go on. `tokens` are the most that the attempt may use.
        """
        if self._process != os.getpid():
            self.__init__(self._clock)  # type: ignore[misc]  # a fork has left the others behind, and maybe a held lock
        with self._lock:
            return Ticket(self, [self._gate(rule) for rule in (*rules, Rule(name=model))], tokens)

    def rest(self, model: str) -> tuple[bool, float]:
        """Returns (True if the model is in a cooldown after failures, seconds until it may be asked)."""
        with self._lock:
            gate = self._gate(Rule(name=model))
            return gate.cooldowns > 0, max(0.0, gate.pause(self._clock()))

    def outlook(self, ticket: Ticket) -> Ticket:
        """Notes what a ticket would wait for, without a place in line."""
        with self._lock:
            self._look_ahead(ticket, self._clock())
        return ticket

    def _gate(self, rule: Rule) -> Gate:
        gate = self._gates.get(rule.name) or self._gates.setdefault(rule.name, Gate(rule))
        gate.rule = rule  # `llm.yaml` may have changed
        return gate

    def _turn(self, ticket: Ticket) -> bool:
        with self._lock:
            self._line.setdefault(ticket)
            ticket.look_at = ticket.look_in = math.inf
            self._dispatch()
            if not ticket.holds and ticket.woken.done():
                ticket.woken = Future()
                ticket.woken.set_running_or_notify_cancel()  # whoever waits for it cannot cancel it
            self._look_ahead(ticket, self._clock())
        return ticket.holds

    def _leave(
        self,
        ticket: Ticket,
        sent: bool,
        tokens: int | None,
        error: LLMError | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        with self._lock:
            self._line.pop(ticket, None)
            for gate in ticket.gates if ticket.holds else ():
                gate.running -= 1
            for window, one, of_requests in ticket.taken:
                window.correct(one, int(sent) if of_requests else tokens)
            if sent or error is not None:
                self._learn(ticket, error, headers if sent else None)
            self._dispatch()

    def _learn(self, ticket: Ticket, error: LLMError | None, headers: Mapping[str, str] | None) -> None:
        """Notes a pause that the provider asks for, and whether the model failed or is there."""
        gate, now = ticket.model, self._clock()
        passing = error if error is not None and type(error).verdict is Verdict.RETRY else None
        if isinstance(error, ConnectionFailedError) and error.verdict is Verdict.NEXT:
            passing = None  # this machine's settings rule the connection out: no pause helps
        asked = (passing.retry_after or 0.0) if passing else 0.0
        pause = min(LONGEST_PAUSE, max(asked, pause_of(headers or {}, ticket.tokens, time.time())))
        if pause > 0:
            gate.paused_until = max(gate.paused_until, now + pause)
        if passing:
            gate.failed(passing.code, now, asked=min(LONGEST_PAUSE, asked), probe=ticket.is_probe)
        elif headers is not None:
            gate.answered()

    def _dispatch(self) -> None:
        """Gives slots to all whose turn it is.

        One that waits keeps later ones from the limits that it waits for, and from no others. The first to wait for a
        limit looks at the clock for all of them.
        """
        now = self._clock()
        closed: set[Gate] = set()
        for ticket in tuple(self._line):
            full = {gate for gate in ticket.gates if gate.is_full or gate.wait(ticket.tokens, now) > 0}
            if not full and closed.isdisjoint(ticket.gates):
                self._grant(ticket, now)
                continue
            if not full <= closed:
                wait = max(gate.wait(ticket.tokens, now) for gate in full - closed)
                ticket.look_in = wait or math.inf
                if ticket.look_at > now + ticket.look_in + 0.001:
                    _wake(ticket)
                ticket.look_at = now + ticket.look_in
            closed |= full

    def _grant(self, ticket: Ticket, now: float) -> None:
        if self._line.pop(ticket, self) is self:
            return  # the garbage collector has closed it, or closed another, which gave it its slot
        for gate in ticket.gates:
            gate.running += 1
            if gate.rule.rpm is not None:
                ticket.taken.append((gate.requests, gate.requests.take(1, now), True))
            if gate.rule.tpm is not None:
                ticket.taken.append((gate.tokens, gate.tokens.take(gate.weight(ticket.tokens), now), False))
        ticket.holds, ticket.is_probe = True, ticket.is_resting
        _wake(ticket)

    def _look_ahead(self, ticket: Ticket, now: float) -> None:
        """Notes how long a ticket waits at least, if all before it stay, and for what."""
        ticket.at_least, ticket.blocked_by = 0.0, ""
        before = tuple(itertools.takewhile(lambda other: other is not ticket, self._line))
        for gate in ticket.gates:
            ahead = sum(gate in other.gates for other in before)
            wait = gate.wait(ticket.tokens, now, ahead=ahead, at_least=True)
            blocks = gate.is_full or ahead or gate.wait(ticket.tokens, now)
            if wait > ticket.at_least or (blocks and not ticket.blocked_by):
                ticket.at_least, ticket.blocked_by = wait, gate.words(now)
                ticket.is_alone = gate is ticket.model


def _wake(ticket: Ticket) -> None:
    if not ticket.woken.done():
        ticket.woken.set_result(None)


_NOW: Future[None] = Future()
_NOW.set_result(None)
