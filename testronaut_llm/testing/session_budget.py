"""One budget for all recording tests of a session, so that a loop in a test costs cents and not dollars."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import TYPE_CHECKING

from testronaut_llm.errors import BudgetExceededError
from testronaut_llm.records import Attempt, Call, Candidate
from testronaut_llm.support.money import exact

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, TaskConfig


class SessionBudget:
    """Reserves in place of `Budgets`, for the managers of one session. Safe for threads.

    Args:
        limit: USD for all of them together.
    """

    def __init__(self, limit: Decimal) -> None:
        self.limit = limit
        self.spent = Decimal(0)
        self._reserved = Decimal(0)
        self._lock = threading.Lock()

    @exact
    def reserve(
        self,
        _config: LLMConfig,
        _task: TaskConfig,
        call: Call,
        candidate: Candidate,
        worst: Decimal | None,
        *,
        spent: Decimal,  # noqa: ARG002 - the signature is that of `Budgets`
    ) -> SessionReservation:
        """Sets the worst case of an attempt aside.

        Raises:
            BudgetExceededError: there is not that much left, or the model has no known price.
        """
        with self._lock:
            left = self.limit - self.spent - self._reserved
            if worst is None or worst > left:
                asked = "has no known price" if worst is None else f"may cost {worst:.4f} USD"
                raise BudgetExceededError(
                    f"{candidate.alias} {asked} for task {call.task!r}, and {left:.4f} of {self.limit} USD are left "
                    "for recording in this session; raise it with --llm-budget=USD",
                    model=candidate.alias,
                )
            self._reserved += worst
        return SessionReservation(self, worst)

    @exact
    def settle(self, reserved: Decimal, cost: Decimal) -> None:
        """Replace what was set aside by what it cost."""
        with self._lock:
            self._reserved -= reserved
            self.spent += cost


class SessionReservation:
    """The money of one attempt, as `Reservation` of `money/`."""

    def __init__(self, budget: SessionBudget, worst: Decimal) -> None:
        self._budget, self._worst, self._open = budget, worst, True

    def sent(self) -> None:
        """From here on it may have to be paid: an unknown cost settles at the worst case."""

    def settle(self, attempt: Attempt) -> None:
        """Count what the attempt cost; once."""
        if self._open:
            self._open = False
            self._budget.settle(self._worst, attempt.cost if attempt.cost is not None else self._worst)
