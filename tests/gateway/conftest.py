"""A server of faults, and a gateway that asks it, for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fault_server import FaultServer
from gateway_kit import Attempts


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture(scope="module")
def attempt() -> Iterator[Attempts]:
    made = Attempts()
    yield made
    made.close()
