"""The network guard: no connection leaves the machine, and every attempt is counted."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faults
import pytest
from fault_server import FaultServer

from testronaut_llm.testing.network import NetworkBlockedError, NetworkGuard, network_guard, stays_here


def connect() -> None:
    socket.create_connection(("192.0.2.1", 443))


def send_a_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("192.0.2.1", 443))


def connect_in_a_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(connect).result()


def look_up_on_the_event_loop() -> None:
    asyncio.run(asyncio.wait_for(asyncio.open_connection("api.example.com", 443), 60))


@pytest.mark.parametrize("attempt", [connect, send_a_datagram, connect_in_a_thread, look_up_on_the_event_loop])
def test_what_leaves_is_refused_and_noted(llm_network: NetworkGuard, attempt: Callable[[], Any]) -> None:
    """It is refused before a packet is sent or a name is looked up, for any library."""
    host = "api.example.com" if attempt is look_up_on_the_event_loop else "192.0.2.1"
    with pytest.raises(NetworkBlockedError, match=host):
        attempt()
    assert llm_network.blocked == [(host, 443)]
    llm_network.blocked.clear()


def test_loopback_works_and_guards_nest(llm_network: NetworkGuard, server: FaultServer) -> None:
    """Each connection counts once. An inner guard has its own count; its end keeps the outer guard on."""
    here = server.plan("a", faults.echo)
    urllib.request.urlopen(here.url).read()
    with network_guard() as inner:
        urllib.request.urlopen(here.url).read()
    urllib.request.urlopen(here.url).read()
    assert [contact.port for contact in llm_network.connects] == [here.port] * 3
    assert len(inner.connects) == 1
    hosts = ("127.0.0.1", "127.9.9.9", "::1", "localhost", "", "0.0.0.0")
    others = ("example.com", "10.0.0.1", "169.254.169.254", "192.0.2.1", "localhost.example.com")
    assert [host for host in (*hosts, *others) if stays_here(host)] == list(hosts)
