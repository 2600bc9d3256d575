"""Text as it comes in and as it is shown: UTF-8 in, no control characters out."""

from __future__ import annotations

import re
from pathlib import Path

from testronaut_llm.errors import ConfigError

_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Returns the text with each control character but newline and tab as `\uXXXX`, which JSON reads as the same.

    Control characters are C0, DEL, C1, bidirectional and separator characters, and lone surrogates.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def decoded(raw: bytes, source: str, *, first_line: int = 1) -> str:
    """Returns UTF-8 text without its byte order mark. Raises ConfigError: names the source, the line and the byte."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = raw.count(b"\n", 0, error.start) + first_line, error.start - raw.rfind(b"\n", 0, error.start)
        words = f"is not UTF-8 text: save it as UTF-8 (byte {column} of the line is 0x{raw[error.start]:02x})"
        raise ConfigError(f"{source}:{line}: {words}", file=source, line=line) from None


def read_utf8(file: Path, *, most: int | None = None) -> str:
    """Returns the text of a file of at most `most` bytes. Raises ConfigError: unreadable, too large, or not UTF-8."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(-1 if most is None else most + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", file=str(file)) from None
    if most is not None and len(raw) > most:
        raise ConfigError(f"{file} is larger than {most:,} bytes", file=str(file))
    return decoded(raw, str(file))
