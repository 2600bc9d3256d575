"""A gateway that is shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gateway_kit import Attempts


@pytest.fixture(scope="module")
def attempt() -> Iterator[Attempts]:
    made = Attempts()
    yield made
    made.close()
