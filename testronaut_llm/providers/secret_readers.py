"""Reads a key from a file that only its owner can read, or from a command's output."""

from __future__ import annotations

import os
import shlex
import shutil
import stat

from testronaut_llm.providers.row import Missing
from testronaut_llm.support.paths import user_path

_MAX_BYTES = 64 * 1024


class UnreadableError(Exception):
    """The key cannot be read. Holds a `Missing`, never a part of the secret."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.missing = Missing(what, fix)


def read_file(name: str) -> str:
    """Returns the key in a file. Raises UnreadableError if it is missing, readable by others, or not just a key."""
    path = user_path(name)
    shown = f"api_key_file {str(path)!r}"
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a named pipe must not block
        try:
            mode = os.fstat(handle).st_mode  # of the open file, which cannot be replaced as its name can
            raw = os.read(handle, _MAX_BYTES) if stat.S_ISREG(mode) else b""
        finally:
            os.close(handle)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableError(f"{shown} cannot be read ({reason})", "correct its path in llm.yaml") from None
    if not stat.S_ISREG(mode):
        raise UnreadableError(f"{shown} is not a file", "name a file that holds the key and nothing else")
    if os.name == "posix" and mode & 0o077:
        words = f"{shown} can be read by others (mode {stat.S_IMODE(mode):04o})"
        raise UnreadableError(words, f"chmod 600 {shlex.quote(str(path))}")
    return one_word(raw, shown)


def run_command(command: str, *, timeout: float = 30.0) -> str:
    """Returns the key that a command prints within `timeout` seconds. Raises UnreadableError if it prints none."""
    import subprocess  # imports much that only a command needs
    from subprocess import DEVNULL, PIPE

    words = words_of(command)
    shown = f"api_key_command {words[0]!r}"
    try:
        # The user's own line of a trusted llm.yaml, without a shell. Its error output may hold secrets.
        done = subprocess.run(words, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, timeout=timeout, check=False)  # noqa: S603
        problem = f"ended with status {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"gave no key within {timeout:g} seconds"
    except OSError as error:
        problem = f"cannot be run ({error.strerror})"
    if problem:
        raise UnreadableError(f"{shown} {problem}", "run the command by hand to see why")
    return one_word(done.stdout, shown)


def one_word(raw: bytes, origin: str) -> str:
    """Returns bytes as a key: printable ASCII without blanks, as HTTP takes it. Raises UnreadableError for others."""
    text = raw.decode("utf-8-sig", errors="replace").strip()
    if not text:
        raise UnreadableError(f"{origin} holds no key", "put the key there, alone on one line")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise UnreadableError(f"{origin} holds more than a key", "a key is one word of plain ASCII, on one line")
    return text


def words_of(command: str) -> list[str]:
    """Returns the words of a command line, if its program exists; does not run it. Raises UnreadableError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UnreadableError(f"api_key_command is not a command line ({error})", "fix its quotes") from None
    if not words:
        raise UnreadableError("api_key_command is empty", "api_key_command: pass show openai")
    if shutil.which(words[0]) is None:
        raise UnreadableError(f"api_key_command {words[0]!r} is not on PATH", f"install {words[0]!r} or fix the line")
    return words
