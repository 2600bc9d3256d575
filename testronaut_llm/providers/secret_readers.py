"""Reading a key from a file that only its owner can read, or from a command's output."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

from testronaut_llm.providers.row import Missing

_LARGEST = 64 * 1024


class UnreadableError(Exception):
    """No key came out. Holds a `Missing`, never a part of the secret."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.missing = Missing(what, mend)


def fault_of_file(name: str) -> Missing | None:
    """What is wrong with a key file before anyone reads it: not there, no file, or open to others."""
    path = Path(name).expanduser()
    try:
        return _fault(path, path.stat())
    except OSError as error:
        return _no_file(path, error)


def read_file(name: str) -> str:
    """The key in a file. Raises UnreadableError: not there, open to others, or not one word of text."""
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            # The open file is checked, not its name: it cannot be swapped in between.
            fault = _fault(path, os.fstat(file.fileno()))
            if fault:
                raise UnreadableError(*fault)
            raw = file.read(_LARGEST)
    except OSError as error:
        raise UnreadableError(*_no_file(path, error)) from None
    return one_word(raw, f"api_key_file {str(path)!r}")


def fault_of_command(command: str) -> Missing | None:
    """Can the command be run at all? It is not run to find out."""
    try:
        _split(command)
    except UnreadableError as error:
        return error.missing
    return None


def run_command(command: str, *, timeout: float = 30.0) -> str:
    """The key that a command prints, killed after `timeout` seconds. No shell; its error output may hold secrets.

    Raises:
        UnreadableError: it cannot be run, fails, hangs, or does not print one word of text.
    """
    words = _split(command)
    shown = f"api_key_command {words[0]!r}"
    by_hand = "run the command by hand to see why"
    try:
        done = subprocess.run(  # noqa: S603 - the user's own line of a trusted llm.yaml, without a shell
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnreadableError(f"{shown} gave no key within {timeout:g} seconds", by_hand) from None
    except OSError as error:
        raise UnreadableError(f"{shown} cannot be run ({error.strerror})", by_hand) from None
    if done.returncode != 0:
        raise UnreadableError(f"{shown} ended with status {done.returncode}", by_hand)
    return one_word(done.stdout, shown)


def one_word(raw: bytes, origin: str) -> str:
    """The bytes as a key: printable ASCII without blanks, as HTTP headers take it.

    Raises:
        UnreadableError: it is empty or something else; what it is stays unsaid.
    """
    text = raw.decode("utf-8", errors="replace").strip()
    if not text:
        raise UnreadableError(f"{origin} holds no key", "put the key there, alone on one line")
    if not all("!" <= char <= "~" for char in text):
        raise UnreadableError(f"{origin} holds more than a key", "a key is one word of plain ASCII, on one line")
    return text


def _fault(path: Path, found: os.stat_result) -> Missing | None:
    if not stat.S_ISREG(found.st_mode):
        return Missing(f"api_key_file {str(path)!r} is not a file", "name a file that holds the key and nothing else")
    if os.name == "posix" and found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        return Missing(
            f"api_key_file {str(path)!r} can be read by others (mode {mode:04o})",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    return None


def _no_file(path: Path, error: OSError) -> Missing:
    reason = error.strerror or type(error).__name__
    return Missing(f"api_key_file {str(path)!r} cannot be read ({reason})", "correct its path in llm.yaml")


def _split(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UnreadableError(f"api_key_command is not a command line ({error})", "mend its quotes") from None
    if not words:
        raise UnreadableError("api_key_command is empty", "api_key_command: pass show openai")
    if shutil.which(words[0]) is None:
        raise UnreadableError(f"api_key_command {words[0]!r} is not on PATH", f"install {words[0]!r} or mend the line")
    return words
