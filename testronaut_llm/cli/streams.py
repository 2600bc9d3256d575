"""The standard streams of the command line: UTF-8, without control characters, and never the cause of a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from testronaut_llm.errors import ConfigError
from testronaut_llm.support.text import decoded, visible


class CannotPrintError(Exception):
    """A result cannot be written to stdout.

    Attributes:
        reader_left: True if its reader closed the pipe, which is no failure.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(f"cannot write to stdout: {getattr(error, 'strerror', None) or error}")
        self.reader_left = isinstance(error, BrokenPipeError)


class Stream:
    """Stdout or stderr, with control characters shown escaped. What cannot be written to stderr is dropped.

    Attributes:
        unescaped: the same stream as it is: for answers that go into a pipe, and for what rich draws.
    """

    def __init__(self, stream: TextIO | None, *, is_result: bool, escape: Callable[[str], str] = visible) -> None:
        self._stream, self._is_result, self._escape = stream, is_result, escape
        self.unescaped = self if escape is str else Stream(stream, is_result=is_result, escape=str)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """True on a terminal."""
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        """Writes text and returns its length. Raises CannotPrintError, of stdout."""
        if shown := self._escape(text):  # nothing is what click writes to see what a stream takes
            self._try("write", shown)
        return len(text)

    def flush(self) -> None:
        """Hands on what was written. Raises CannotPrintError, of stdout."""
        self._try("flush")

    def _try(self, action: str, *arguments: str) -> None:
        try:
            if self._stream is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            getattr(self._stream, action)(*arguments)
        except (OSError, ValueError) as error:  # the latter of a file that was closed
            self._discard()
            if self._is_result:
                raise CannotPrintError(error) from None

    def _discard(self) -> None:
        """Sends what is left in the buffer nowhere: the interpreter would fail on it once more when it ends."""
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # type: ignore[union-attr]  # None has none, as above
            os.close(nowhere)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Puts `Stream` in place of stdout and stderr, whatever the locale says of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next socket would get its number, and what libraries print
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    out, err = Stream(sys.stdout, is_result=True), Stream(sys.stderr, is_result=False)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        yield


def read_stdin() -> str:
    """Returns all of stdin. Raises ConfigError: it is closed, or not UTF-8 text."""
    try:
        return decoded(sys.stdin.buffer.read(), "stdin")
    except (OSError, AttributeError) as error:  # None has no buffer
        raise ConfigError(f"cannot read stdin: {getattr(error, 'strerror', None) or 'it is closed'}") from None
