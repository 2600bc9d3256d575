"""Blocks the network by an audit hook, which sees each connect and name look-up of Python, not of child processes."""

import ipaddress
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

_LOOK_UPS = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})
_SENDS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_INTERNET = (socket.AF_INET, socket.AF_INET6)


class NetworkBlockedError(OSError):
    """Raised into code that tries to leave the machine; an OSError, as of a dead network."""


class Contact(NamedTuple):
    """The target of a connect, or of the lookup of a name."""

    host: str
    port: int | None


@dataclass(slots=True, kw_only=True)
class NetworkGuard:
    """Connections opened while the guard was on, all on loopback, and those refused."""

    connects: list[Contact] = field(default_factory=list)
    blocked: list[Contact] = field(default_factory=list)


def stays_here(host: str) -> bool:
    """True if this host name or address is the machine itself."""
    if host in ("", "localhost", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


_guards: list[NetworkGuard] = []


@contextmanager
def network_guard() -> Iterator[NetworkGuard]:
    """Blocks the network except loopback during the block. Guards nest; each has its own lists."""
    guard = NetworkGuard()
    _guards.append(guard)
    _install()
    try:
        yield guard
    finally:
        _guards[:] = [one for one in _guards if one is not guard]


@cache
def _install() -> None:
    sys.addaudithook(_hook)  # it cannot be removed


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event in _LOOK_UPS:
        host, port = (*args, None)[:2]
    elif event in _SENDS and args[0].family in _INTERNET and args[1]:
        host, port = args[1][:2]
    else:
        return
    name = host.decode("idna") if isinstance(host, bytes) else str(host or "")
    contact, allowed = Contact(name, port if isinstance(port, int) else None), stays_here(name)
    for guard in tuple(_guards):
        if not allowed:
            guard.blocked.append(contact)
        elif event == "socket.connect":
            guard.connects.append(contact)
    if _guards and not allowed:
        fix = "replay a cassette or use a server on 127.0.0.1"
        raise NetworkBlockedError(f"the network is blocked in tests: {event} to {name!r} port {contact.port}; {fix}")


_hook.__cantrace__ = True  # type: ignore[attr-defined]  # lets coverage and debuggers see into it
