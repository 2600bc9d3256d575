"""When to leave a model alone that failed again and again, and when to ask it once more.

Closed, it lets all through. After some failures in a row it is open: the model rests. Then it is half-open: one request
goes through, and closes it or lets the model rest for longer. No clock, no lock: whoever holds it brings both.
"""

from __future__ import annotations

from dataclasses import dataclass

FAILURES = 5
"""In a row, after which a model rests."""

FIRST_REST, LONGEST_REST = 5.0, 60.0
"""Seconds. Each request that fails after a rest doubles the next one."""


@dataclass(slots=True)
class Breaker:
    """What the last replies of one model say of it."""

    failures: int = 0  # in a row, of the kind that may pass by itself: none came, 429, 5xx
    rests: int = 0  # in a row; 0 means closed
    until: float = 0.0  # the end of the last rest, in seconds on its owner's clock
    last: str = ""  # code of the last failure

    @property
    def is_open(self) -> bool:
        """Open or half-open: at most one request may go through, and none before `until`."""
        return self.rests > 0

    def answered(self) -> None:
        """The model replied, with an answer or with a refusal of the request: it is there."""
        self.failures = self.rests = 0

    def failed(self, code: str, now: float, *, asked: float, probe: bool) -> None:
        """The model failed, and its provider `asked` for so many seconds of rest.

        Was it the `probe` after a rest? Those that left before it began say nothing new.
        """
        self.failures, self.last = self.failures + 1, code
        if probe if self.is_open else self.failures >= FAILURES:
            self.rests += 1
            self.until = now + max(asked, min(LONGEST_REST, FIRST_REST * 2.0 ** (self.rests - 1)))
