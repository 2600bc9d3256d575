"""Identical concurrent calls share one request: the first leads and asks, the others wait until its answer is stored.

Within a manager they meet on its event loop. Managers and processes meet at a lock in a file, which the system frees
at once when its holder dies, however it dies.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_FIRST_WAIT, _LONGEST_WAIT = 0.005, 0.05  # seconds between two tries to get another process's lock


@dataclass(slots=True, eq=False)
class _Waiter:
    stream: bool
    leads: bool = False
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class Flights:
    """The concurrent calls of one manager. All of them run on one event loop.

    Args:
        locks: shared with other managers and processes; None if nothing is stored, and so nothing can be shared.
    """

    def __init__(self, locks: FlightLocks | None) -> None:
        self._locks = locks
        self._process = os.getpid()
        self._waiters: dict[str, list[_Waiter]] = {}

    @asynccontextmanager
    async def join(self, key: str, *, deadline: float, stream: bool = False) -> AsyncIterator[bool]:
        """Waits until no identical call is under way, and yields True if this call leads.

        Look into the cache once more in both cases, since another process may have stored the answer. A call that
        leads ends in two ways: without an error its answer is stored, and all others go on. With one, the next leads.

        Args:
            key: what identical calls have in common.
            deadline: the seconds that waiting may take.
            stream: streams never lead, since other calls would wait for their reader.

        Raises:
            TimeoutError: an identical call did not end in time.
        """
        if self._process != os.getpid():  # the calls of the parent of a fork do not run here
            self._process, self._waiters = os.getpid(), {}
        mine = _Waiter(stream)
        waiters = self._waiters.setdefault(key, [])
        waiters.append(mine)
        if len(waiters) == 1:
            self._wake_next(key)
        stored = False
        try:
            async with asyncio.timeout(deadline):
                await mine.woken.wait()
                if mine.leads:
                    await self._locked(key)
            yield mine.leads
            stored = True
        finally:
            self._leave(key, mine, stored=stored)

    async def _locked(self, key: str) -> None:
        wait = _FIRST_WAIT
        while self._locks is not None and not self._locks.acquire(key):
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, _LONGEST_WAIT)

    def _leave(self, key: str, mine: _Waiter, *, stored: bool) -> None:
        waiters = self._waiters.get(key, [])
        if mine not in waiters:  # it was woken when its leader had stored the answer
            return
        waiters.remove(mine)
        if mine.leads and self._locks is not None:
            self._locks.release(key)
        if mine.leads and stored:
            self._wake_all(key)
        elif mine.leads or not waiters:
            self._wake_next(key)

    def _wake_next(self, key: str) -> None:
        leader = next((one for one in self._waiters[key] if not one.stream), None)
        if leader is None:
            self._wake_all(key)
        else:
            leader.leads = True
            leader.woken.set()

    def _wake_all(self, key: str) -> None:
        for one in self._waiters.pop(key):
            one.woken.set()


@dataclass(slots=True, eq=False)
class Seat:
    """One call among identical ones in several threads. Its `future` ends when it need not wait any longer.

    Attributes:
        leads: True if it asks for all. It may become the leader while it waits.
        alone: streams never lead, since other calls would wait for their reader.
    """

    key: str
    leads: bool = False
    alone: bool = False
    future: Future[None] = field(default_factory=Future)


class ThreadFlights:
    """The concurrent calls of one manager, from threads and from any event loop."""

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
