"""What the call flow wants of a purse: a slip for each attempt, taken before sending and settled after."""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

from testronaut_llm.records import Attempt, Call, Candidate


class Slip(Protocol):
    """The money set aside for one attempt. Settling is idempotent, and what is settled later counts."""

    def sent(self) -> None:
        """The request is about to leave: from now on it may have to be paid.

        Raises:
            LLMError: that cannot be noted; it must not leave.
        """

    def settle(self, attempt: Attempt) -> None:
        """The attempt ended; its cost is what is owed."""


class Purse(Protocol):
    """Whose money is spent."""

    def reserve(self, call: Call, candidate: Candidate, worst: Decimal | None) -> Slip:
        """Sets the worst case of an attempt aside.

        Args:
            call: the call that asks.
            candidate: the model to be asked.
            worst: USD, None where no price is known.

        Raises:
            BudgetExceededError: the limits do not leave that much.
            LedgerBusyError: nobody can say just now what they leave; to be tried again.
            ConfigError: nobody can say what they leave.
        """
