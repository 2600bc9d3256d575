"""Identical calls at the same time become one: the first asks, the others wait until its answer is stored.

Within a manager they meet here, from threads and from any event loop. Managers and processes meet at a lock in a file,
which the system frees at once when its holder dies, however it dies.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True, eq=False)
class Seat:
    """One call's place in a flight. Its `future` ends when it need not wait any longer.

    Attributes:
        leads: does it ask for all? It may become the leader while it waits.
        alone: it never leads, since nobody should have to wait for it.
    """

    key: str
    leads: bool = False
    alone: bool = False
    future: Future[None] = field(default_factory=Future)


class Flights:
    """The flights of one manager."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._seats: dict[str, list[Seat]] = {}

    def take(self, key: str, *, alone: bool) -> Seat:
        """A place among the calls that ask the same; the first of them leads. Every seat has to be left."""
        if self._process != os.getpid():
            self.__init__()  # type: ignore[misc]  # a fork has left the others behind, and maybe a lock that is held
        seat = Seat(key, alone=alone)
        seat.future.set_running_or_notify_cancel()  # whoever waits for it cannot cancel it
        with self._lock:
            seats = self._seats.setdefault(key, [])
            seats.append(seat)
            if len(seats) == 1:
                self._next(key)
        return seat

    def leave(self, seat: Seat, *, landed: bool) -> None:
        """Gives the seat up. When a leader has landed, nobody waits any longer; otherwise the next in line leads."""
        with self._lock:
            seats = self._seats.get(seat.key, [])
            if seat not in seats:
                return
            seats.remove(seat)
            if seat.leads and landed:
                _wake(self._seats.pop(seat.key))
            elif seat.leads or not seats:
                self._next(seat.key)

    def _next(self, key: str) -> None:
        seats = self._seats[key]
        leader = next((seat for seat in seats if not seat.alone), None)
        if leader is not None:
            leader.leads = True
            leader.future.set_result(None)
            return
        _wake(self._seats.pop(key))


def _wake(seats: list[Seat]) -> None:
    for seat in seats:
        seat.future.set_result(None)


class FlightLocks:
    """Locks on single bytes of one file, at places that the keys name; on Linux each manager's are its own.

    Elsewhere the process holds them: two managers in it do not wait for each other, and closing one frees all. Where
    the system or the folder has no such locks nobody waits, and each process asks for itself.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._process = os.getpid()

    def acquire(self, key: str) -> bool:
        """Tries to take one. False: somebody else asks the same."""
        try:
            handle = self._opened()
        except OSError:
            return True
        try:
            _set(handle, _place(key), free=False)
        except ImportError:
            return True
        except OSError as error:
            return error.errno not in (errno.EAGAIN, errno.EACCES)
        return True

    def release(self, key: str) -> None:
        """Gives it back."""
        if self._handle is not None and self._process == os.getpid():
            with suppress(OSError, ImportError):
                _set(self._handle, _place(key), free=True)

    def close(self) -> None:
        """Frees all of them."""
        with self._lock:
            handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def _opened(self) -> int:
        if self._process != os.getpid():  # a fork shares the open file, and with it the locks
            self._process, self._lock = os.getpid(), threading.Lock()
            self.close()
        with self._lock:
            if self._handle is None:
                self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
            return self._handle


def _set(handle: int, place: int, *, free: bool) -> None:
    """Locks one byte or frees it: for this open file alone where the system can (see `man fcntl`), or the process."""
    import fcntl

    command = getattr(fcntl, "F_OFD_SETLK", None)
    if command is None or sys.platform != "linux" or sys.maxsize < 2**32:
        fcntl.lockf(handle, fcntl.LOCK_UN if free else fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        return
    kind = fcntl.F_UNLCK if free else fcntl.F_WRLCK
    fcntl.fcntl(handle, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0))


def _place(key: str) -> int:
    return int(key[:15], 16)
