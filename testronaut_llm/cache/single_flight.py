"""Identical concurrent calls share one request: the first asks, the others wait until its answer is stored.

Calls of one manager share through its event loop; managers and processes through a lock in a file, which the system
frees when its holder ends.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from testronaut_llm.support.paths import make_folder

_FIRST_LOOK, _LONGEST_LOOK = 0.005, 0.05  # seconds between two checks for the end of another process


class FlightTimeoutError(Exception):
    """An identical call did not end before the deadline of this one."""


class Flights:
    """Identical calls of one manager, all on one event loop. With `locks`, also of other managers and processes."""

    def __init__(self, locks: FlightLocks | None) -> None:
        self._locks = locks
        self._leaders: dict[str, asyncio.Future[bool]] = {}

    @asynccontextmanager
    async def join(self, key: str, left: Callable[[], float], *, leads: bool) -> AsyncIterator[None]:
        """Enters when no identical call (of the same `key`) runs; the caller then looks into the cache.

        Raises FlightTimeoutError when no seconds are `left`. A stream never `leads`: others would wait for its reader.
        """
        loop = asyncio.get_running_loop()
        while (leader := self._leaders.get(key)) is not None and leader.get_loop() is loop:  # not of a forked parent
            await asyncio.wait((leader,), timeout=max(0.0, left()))
            if not leader.done():
                raise FlightTimeoutError
            if leader.result():  # its answer is stored
                leads = False
                break
        if not leads:
            yield
            return
        landed, leader = False, loop.create_future()
        self._leaders[key] = leader
        try:
            look = _FIRST_LOOK
            while self._locks is not None and not self._locks.acquire(key):
                if left() <= 0:
                    raise FlightTimeoutError
                await asyncio.sleep(min(look, max(0.0, left())))
                look = min(look * 1.5, _LONGEST_LOOK)
            yield
            landed = True
        finally:
            if self._locks is not None:
                self._locks.release(key)
            self._leaders.pop(key, None)
            leader.set_result(landed)


class FlightLocks:
    """Locks on single bytes of one file, at offsets computed from the keys; on Linux each manager has its own.

    Elsewhere the process holds them: two managers in it do not wait for each other, and closing one frees all. If
    the system or the folder has no such locks, no process waits, and each asks for itself.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._handle: int | None = None
        self._process = os.getpid()

    def acquire(self, key: str) -> bool:
        """Tries to take a lock; False if an identical call holds it."""
        if self._process != os.getpid():  # a fork shares the open file, and with it the locks
            self._process = os.getpid()
            self.close()
        try:
            if self._handle is None:
                make_folder(self._file.parent)
                self._handle = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
            _lock(self._handle, key, free=False)
        except (OSError, ImportError) as error:
            return self._handle is None or not isinstance(error, BlockingIOError | PermissionError)
        return True

    def release(self, key: str) -> None:
        """Frees a lock."""
        if self._handle is not None and self._process == os.getpid():
            with suppress(OSError, ImportError):
                _lock(self._handle, key, free=True)

    def close(self) -> None:
        """Frees all locks."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def _lock(handle: int, key: str, *, free: bool) -> None:
    """Locks one byte or frees it: for this open file if the system can (see `man fcntl`), else for the process."""
    import fcntl

    place, command = int(key[:15], 16), getattr(fcntl, "F_OFD_SETLK", None)
    if command is None or sys.platform != "linux" or sys.maxsize < 2**32:
        fcntl.lockf(handle, fcntl.LOCK_UN if free else fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        return
    kind = fcntl.F_UNLCK if free else fcntl.F_WRLCK
    fcntl.fcntl(handle, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0))
