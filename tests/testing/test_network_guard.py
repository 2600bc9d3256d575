"""The network guard: no connection leaves the machine, and every attempt is counted."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import faults
import pytest
from fault_server import FaultServer

from testronaut_llm.testing.network import NetworkBlockedError, NetworkGuard, network_guard, stays_here

HERE = ("127.0.0.1", "127.9.9.9", "::1", "localhost", "", "0.0.0.0")
AWAY = ("example.com", "10.0.0.1", "169.254.169.254", "192.0.2.1", "localhost.example.com")


def test_only_loopback_stays_here() -> None:
    """Other hosts are refused, including those of the local network and of cloud metadata."""
    assert [host for host in (*HERE, *AWAY) if stays_here(host)] == list(HERE)


def _datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("192.0.2.1", 53))


def _in_a_thread() -> None:
    errors: list[OSError] = []

    def call_home() -> None:
        try:
            socket.create_connection(("192.0.2.1", 80))
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=call_home)
    thread.start()
    thread.join()
    raise errors[0]


ATTEMPTS: dict[str, tuple[Callable[[], Any], str, int]] = {
    "an address": (lambda: socket.create_connection(("192.0.2.1", 443)), "192.0.2.1", 443),
    "a name, which is not even looked up": (lambda: socket.getaddrinfo("api.example.com", 443), "api.example.com", 443),
    "a datagram, which needs no connect": (_datagram, "192.0.2.1", 53),
    "the event loop": (lambda: asyncio.run(_opened()), "api.example.com", 443),
    "a background thread": (_in_a_thread, "192.0.2.1", 80),
}


async def _opened() -> None:
    await asyncio.open_connection("api.example.com", 443)


@pytest.mark.parametrize("way", ATTEMPTS)
def test_what_leaves_is_refused_and_noted(llm_network: NetworkGuard, way: str) -> None:
    """It is refused before a packet is sent, for any library."""
    attempt, host, port = ATTEMPTS[way]
    with pytest.raises(NetworkBlockedError, match=host):
        attempt()
    [contact] = llm_network.blocked
    assert (contact.host, contact.port) == (host, port)
    llm_network.blocked.clear()


def test_loopback_works_and_guards_nest(llm_network: NetworkGuard) -> None:
    """Each connection counts once. An inner guard has its own count; its end keeps the outer guard on."""
    with FaultServer() as servers:
        server = servers.plan("a", faults.echo)
        urllib.request.urlopen(server.url).read()
        with network_guard() as inner:
            urllib.request.urlopen(server.url).read()
        urllib.request.urlopen(server.url).read()
    assert [contact.port for contact in llm_network.connects] == [server.port] * 3
    assert len(inner.connects) == 1
