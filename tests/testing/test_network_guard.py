"""The kill-switch of the network: nothing leaves the machine, and everything is counted."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.request

import pytest
from http_echo import EchoServer

from testronaut_llm.testing.network import NetworkBlockedError, NetworkGuard, network_guard, stays_here


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "", "0.0.0.0"])
def test_loopback_stays_here(host: str) -> None:
    """Names and addresses of this machine are allowed."""
    assert stays_here(host)


@pytest.mark.parametrize("host", ["example.com", "10.0.0.1", "169.254.169.254", "192.0.2.1", "localhost.example.com"])
def test_everything_else_is_away(host: str) -> None:
    """Other hosts are refused, also those of the local network and of cloud metadata."""
    assert not stays_here(host)


def test_connect_to_an_address_is_refused(network: NetworkGuard) -> None:
    """A connect by address is refused before a packet leaves, and noted."""
    with socket.socket() as sock, pytest.raises(NetworkBlockedError, match=r"192\.0\.2\.1"):
        sock.connect(("192.0.2.1", 443))
    assert [contact.host for contact in network.blocked] == ["192.0.2.1"]
    network.blocked.clear()


def test_a_name_is_not_even_looked_up(network: NetworkGuard) -> None:
    """The look-up of a foreign name is refused, since DNS is a network too."""
    with pytest.raises(NetworkBlockedError, match="getaddrinfo"):
        socket.getaddrinfo("api.example.com", 443)
    assert network.blocked.pop().port == 443


def test_a_datagram_is_refused(network: NetworkGuard) -> None:
    """UDP needs no connect, and is refused all the same."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(NetworkBlockedError):
        sock.sendto(b"x", ("192.0.2.1", 53))
    network.blocked.clear()


async def test_asyncio_is_refused(network: NetworkGuard) -> None:
    """The event loop's own connections are seen like any other."""
    with pytest.raises(NetworkBlockedError):
        await asyncio.open_connection("api.example.com", 443)
    network.blocked.clear()


def test_a_background_thread_is_seen(network: NetworkGuard) -> None:
    """What a thread tries and swallows is still on record."""

    def call_home() -> None:
        with pytest.raises(NetworkBlockedError):
            socket.create_connection(("192.0.2.7", 80))

    thread = threading.Thread(target=call_home, name="telemetry")
    thread.start()
    thread.join()
    assert [(contact.host, contact.thread) for contact in network.blocked] == [("192.0.2.7", "telemetry")]
    network.blocked.clear()


def test_loopback_works_and_is_counted(network: NetworkGuard) -> None:
    """Each connection to a local server counts once."""
    with EchoServer() as server:
        for _ in range(3):
            urllib.request.urlopen(f"{server.url}/x").read()
    assert [contact.port for contact in network.connects] == [server.port] * 3


def test_guards_nest_and_each_counts_for_itself() -> None:
    """An inner guard counts from when it was switched on; leaving it leaves the outer one on."""
    with EchoServer() as server, network_guard() as outer:
        urllib.request.urlopen(server.url).read()
        with network_guard() as inner:
            urllib.request.urlopen(server.url).read()
        urllib.request.urlopen(server.url).read()
    assert (len(outer.connects), len(inner.connects)) == (3, 1)


def test_a_swallowed_attempt_fails_the_test(pytester: pytest.Pytester, network: NetworkGuard) -> None:
    """Code that hides the refusal does not hide it from the test's verdict."""
    pytester.makeconftest("pytest_plugins = ['testronaut_llm.testing.plugin']")
    pytester.makepyfile(
        """
        import contextlib, socket
        def test_it(network):
            with contextlib.suppress(OSError):
                socket.create_connection(("192.0.2.1", 80))
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:asyncio", "-p", "no:randomly")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*tried to leave the machine*192.0.2.1*"])
    network.blocked.clear()
