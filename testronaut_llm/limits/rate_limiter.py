"""Who may send now: requests and tokens a minute, and requests at once. It waits, in order; it does not fail.

A plain object with a lock and a clock, and no thread: a call asks its ticket for its turn, and again when it is woken
or when the ticket's `look_in` is over. Threads and event loops share it; processes do not.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar

from testronaut_llm.errors import ConnectionFailedError, LLMError, Verdict
from testronaut_llm.limits.headers import pause_of
from testronaut_llm.limits.windows import Gate, Rule, Taken, Window

LONGEST_PAUSE = 120.0
"""Seconds. A provider that asks for a longer pause is asked again after this: it may have been helped meanwhile."""

_held: ContextVar[frozenset[Ticket]] = ContextVar("testronaut_llm_held", default=frozenset())
"""Slots that this thread or task, or the one that started it, holds while it does other things: its open streams."""


class Ticket:
    """One attempt's place in line, and then its slot. Has to be left, whatever happens."""

    def __init__(self, limiter: RateLimiter, gates: Sequence[Gate], tokens: int) -> None:
        self._limiter = limiter
        self.gates, self.tokens = tuple(gates), tokens
        self.model = self.gates[-1] if gates else Gate(Rule(name=""))  # the last one is the model's own
        self.around = frozenset(one for one in _held.get() if not one.has_left)
        self.requests_taken: list[tuple[Window, Taken]] = []
        self.tokens_taken: list[tuple[Window, Taken]] = []
        self.holds: bool = False
        self.has_left: bool = False
        self.is_probe: bool = False
        self.is_alone: bool = False  # waits for its own model: the provider asks for a pause, or the model rests
        self.rests = self.model.breaker.rests
        self.woken: Future[None] = _AT_ONCE  # done when it is worth asking for the turn again
        self.look_at = self.look_in = math.inf  # seconds; when it is, too, unless only the end of another brings room
        self.at_least = 0.0  # seconds that it will wait; infinite where it would wait for itself
        self.blocked_by = ""  # what it waits for, in words

    def turn(self) -> bool:
        """May it send now? If so it holds its slot."""
        if self.holds or self._limiter._turn(self):  # noqa: SLF001 - two halves of one thing
            _held.set(self.around | {self})
            return True
        return False

    @property
    def is_resting(self) -> bool:
        """Is its model left alone because it failed?"""
        return self.model.breaker.is_open

    @property
    def is_in_vain(self) -> bool:
        """Did the model have to rest once more while this waited?"""
        return self.model.breaker.rests > max(1, self.rests)

    def leave(
        self,
        *,
        sent: bool = False,
        tokens: int | None = None,
        error: LLMError | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Gives place and slot back; a second time does nothing.

        A request that was not `sent` does not count. `tokens` are None where nobody knows how many it used, `headers`
        (names in lower case) where nobody waited for the response.
        """
        if not self.has_left:
            self.has_left = True
            _held.set(_held.get() - {self})
            self._limiter._leave(self, (int(sent), tokens if sent else 0), error, headers)  # noqa: SLF001


class RateLimiter:
    """The limits of one manager. Safe for threads. Its clock says seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._process = os.getpid()
        self._lock = threading.RLock()  # the garbage collector may close a call, and so leave, in the midst of a turn
        self._gates: dict[str, Gate] = {}
        self._line: dict[Ticket, None] = {}

    def ticket(self, rules: Sequence[Rule], model: str, tokens: int) -> Ticket:
        """A place at the end of the line, taken when its turn is first asked for.

        All `rules` hold; the replies of `model` say how fast to go on; `tokens` are the most that the attempt may use,
        prompt and answer.
        """
        if self._process != os.getpid():
            self.__init__(self._clock)  # type: ignore[misc]  # a fork has left the others behind, and maybe a held lock
        with self._lock:
            return Ticket(self, [self._gate(rule) for rule in (*rules, Rule(name=model))], tokens)

    def rest(self, model: str) -> tuple[bool, float]:
        """Is a model left alone because it failed, and for how many seconds more? Sorts by who can be asked first."""
        with self._lock:
            gate = self._gate(Rule(name=model))
            return gate.breaker.is_open, max(0.0, gate.left_alone(self._clock()))

    def outlook(self, ticket: Ticket) -> Ticket:
        """Says what a ticket would wait for, without a place in line."""
        with self._lock:
            self._look_ahead(ticket, self._clock())
        return ticket

    def _gate(self, rule: Rule) -> Gate:
        gate = self._gates.get(rule.name) or self._gates.setdefault(rule.name, Gate(rule))
        gate.rule = rule  # what `llm.yaml` says by now
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
        self, ticket: Ticket, used: tuple[int, int | None], error: LLMError | None, headers: Mapping[str, str] | None
    ) -> None:
        with self._lock:
            self._line.pop(ticket, None)
            for gate in ticket.gates:
                gate.running.discard(ticket)
            for taken, amount in zip((ticket.requests_taken, ticket.tokens_taken), used, strict=True):
                for window, one in taken:
                    window.correct(one, amount)
            if used[0] or error is not None:
                self._learn(ticket, error, headers if used[0] else None)
            self._dispatch()

    def _learn(self, ticket: Ticket, error: LLMError | None, headers: Mapping[str, str] | None) -> None:
        """What a reply says of the model: it is there or not, and wants to be asked less often."""
        gate, now = ticket.model, self._clock()
        passing = error if error is not None and type(error).verdict is Verdict.RETRY else None
        if isinstance(error, ConnectionFailedError) and error.verdict is Verdict.NEXT:
            passing = None  # this machine's settings rule the connection out: no rest helps
        asked = (passing.retry_after or 0.0) if passing else 0.0
        pause = min(LONGEST_PAUSE, max(asked, pause_of(headers or {}, ticket.tokens, time.time())))
        if pause > 0:
            gate.paused_until = max(gate.paused_until, now + pause)
        if passing:
            gate.breaker.failed(passing.code, now, asked=min(LONGEST_PAUSE, asked), probe=ticket.is_probe)
        elif headers is not None:
            gate.breaker.answered()

    def _dispatch(self) -> None:
        """Gives slots to all whose turn it is.

        One that waits keeps later ones from the limits that it waits for, and from no others. The first to wait for a
        limit looks at the clock for all of them.
        """
        now = self._clock()
        closed: set[Gate] = set()
        for ticket in tuple(self._line):
            around = ticket.around
            full = {gate for gate in ticket.gates if gate.is_full(around) or gate.wait(ticket.tokens, now) > 0}
            if not full and not any(gate in closed and not gate.is_open_to(around) for gate in ticket.gates):
                self._grant(ticket, now)
                continue
            if not full <= closed:
                self._set_alarm(ticket, max(gate.wait(ticket.tokens, now) for gate in full - closed), now)
            closed |= full

    def _set_alarm(self, ticket: Ticket, wait: float, now: float) -> None:
        ticket.look_in = wait or math.inf
        if ticket.look_at > now + ticket.look_in + 0.001:
            _wake(ticket)
        ticket.look_at = now + ticket.look_in

    def _grant(self, ticket: Ticket, now: float) -> None:
        if self._line.pop(ticket, self) is self:
            return  # the garbage collector has closed it, or closed another, which gave it its slot
        for gate in ticket.gates:
            gate.running.add(ticket)
            if gate.rule.rpm is not None:
                ticket.requests_taken.append((gate.requests, gate.requests.take(1, now)))
            if gate.rule.tpm is not None:
                ticket.tokens_taken.append((gate.tokens, gate.tokens.take(gate.weight(ticket.tokens), now)))
        ticket.holds, ticket.is_probe = True, ticket.is_resting
        _wake(ticket)

    def _look_ahead(self, ticket: Ticket, now: float) -> None:
        """Notes what a ticket waits at least, if all before it stay, and for what."""
        ticket.at_least, ticket.blocked_by = 0.0, ""
        for gate in ticket.gates:
            before = itertools.takewhile(lambda other: other is not ticket, self._line)
            ahead = sum(gate in other.gates for other in before)
            stuck, full = gate.is_stuck(ticket.around), gate.is_full(ticket.around)
            wait = math.inf if stuck else gate.wait(ticket.tokens, now, ahead=ahead, at_least=True)
            if wait > ticket.at_least or ((full or ahead or gate.wait(ticket.tokens, now)) and not ticket.blocked_by):
                ticket.at_least, ticket.blocked_by = wait, gate.words(now)
                ticket.is_alone = gate is ticket.model


def _wake(ticket: Ticket) -> None:
    if not ticket.woken.done():
        ticket.woken.set_result(None)


_AT_ONCE: Future[None] = Future()
_AT_ONCE.set_result(None)
