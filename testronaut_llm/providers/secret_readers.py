"""Reading a key from a file that only its owner can read, or from a command's output."""

from __future__ import annotations

import os
import shlex
import shutil
import stat

from testronaut_llm.providers.row import Missing
from testronaut_llm.support.paths import user_path

_LARGEST = 64 * 1024


class UnreadableError(Exception):
    """No key came out. Holds a `Missing`, never a part of the secret."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what)
        self.missing = Missing(what, mend)


def read_file(name: str) -> str:
    """Returns the key in a file. Raises UnreadableError: not there, open to others, or not one word of text."""
    path = user_path(name)
    shown = f"api_key_file {str(path)!r}"
    try:
        with open(path, "rb", opener=_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode  # of the open file, which cannot be swapped as its name can
            raw = file.read(_LARGEST) if stat.S_ISREG(mode) else b""
    except IsADirectoryError:
        mode, raw = stat.S_IFDIR, b""
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableError(f"{shown} cannot be read ({reason})", "correct its path in llm.yaml") from None
    if not stat.S_ISREG(mode):
        raise UnreadableError(f"{shown} is not a file", "name a file that holds the key and nothing else")
    if os.name == "posix" and mode & 0o077:
        words = f"{shown} can be read by others (mode {stat.S_IMODE(mode):04o})"
        raise UnreadableError(words, f"chmod 600 {shlex.quote(str(path))}")
    return one_word(raw, shown)


def _at_once(path: str, flags: int) -> int:
    """Opens a file; a named pipe, too, without waiting for its writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def run_command(command: str, *, timeout: float = 30.0) -> str:
    """Returns the key that a command prints within `timeout` seconds. Raises UnreadableError: it prints none."""
    import subprocess  # and with it much that only a command needs
    from subprocess import DEVNULL, PIPE

    words = words_of(command)
    shown = f"api_key_command {words[0]!r}"
    by_hand = "run the command by hand to see why"
    try:
        # The user's own line of a trusted llm.yaml, without a shell. Its error output may hold secrets.
        done = subprocess.run(words, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, timeout=timeout, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise UnreadableError(f"{shown} gave no key within {timeout:g} seconds", by_hand) from None
    except OSError as error:
        raise UnreadableError(f"{shown} cannot be run ({error.strerror})", by_hand) from None
    if done.returncode != 0:
        raise UnreadableError(f"{shown} ended with status {done.returncode}", by_hand)
    return one_word(done.stdout, shown)


def one_word(raw: bytes, origin: str) -> str:
    """Returns bytes as a key: printable ASCII without blanks, as HTTP takes it. Raises UnreadableError: it is none."""
    text = raw.decode("utf-8-sig", errors="replace").strip()
    if not text:
        raise UnreadableError(f"{origin} holds no key", "put the key there, alone on one line")
    if not all("!" <= char <= "~" for char in text):
        raise UnreadableError(f"{origin} holds more than a key", "a key is one word of plain ASCII, on one line")
    return text


def words_of(command: str) -> list[str]:
    """Returns the words of a command that can be run at all, without running it. Raises UnreadableError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UnreadableError(f"api_key_command is not a command line ({error})", "mend its quotes") from None
    if not words:
        raise UnreadableError("api_key_command is empty", "api_key_command: pass show openai")
    if shutil.which(words[0]) is None:
        raise UnreadableError(f"api_key_command {words[0]!r} is not on PATH", f"install {words[0]!r} or mend the line")
    return words
