"""Reads text from outside (files, JSON, durations, URLs, names), and forms text for output."""

import ipaddress
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from testronaut_llm.errors import ConfigError

_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
_PART_OF_DURATION = re.compile(rf"({_NUMBER})\s*(ms|[smhdw])", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_MOST_COMPARED, _MOST_LISTED = 200, 30


def visible(text: str) -> str:
    r"""Returns the text with each control character but newline and tab as `\uXXXX`, which JSON reads as the same.

    Control characters are C0, DEL, C1, bidirectional and separator characters, and lone surrogates.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def decoded(raw: bytes, source: str, *, first_line: int = 1) -> str:
    """Returns UTF-8 text without its byte order mark. Raises ConfigError with source, line and byte."""
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


def parse_json(text: str | bytes) -> Any:
    """Returns the value of a JSON text, by RFC 8259: no NaN, no duplicate names, no numbers that Python cannot hold.

    Raises ValueError, which says what and where.
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_distinct)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("half a character (a lone surrogate) in a string") from None
    return value


def seconds_of(text: str) -> float | None:
    """Returns the seconds of `90`, `20ms`, `1.5h`, `30d`, `2w` or `6m0s`; None if it is not a duration."""
    text = text.strip()
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if not text or _PART_OF_DURATION.sub("", text):
        return None
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in _PART_OF_DURATION.findall(text))


def closest(name: object, known: Iterable[object], *, cutoff: float = 0.6) -> str | None:
    """Returns the known name most similar to the given one; None if none has a similarity of `cutoff` (0 to 1)."""
    from difflib import get_close_matches

    names = [str(one)[:80] for one in islice(known, _MOST_COMPARED)]
    return next(iter(get_close_matches(str(name)[:80], names, n=1, cutoff=cutoff)), None)


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Returns the end of a message about an unknown name: the closest one, or all of them."""
    names = sorted(str(one) for one in known)
    if best := closest(name, names):
        return f"; did you mean `{best}`?"
    more = ", ..." if len(names) > _MOST_LISTED else ""
    return f"; known: {', '.join(names[:_MOST_LISTED])}{more}" if names else ""


@lru_cache(maxsize=256)
def host_of(url: str) -> str:
    """Returns the host that a client would connect to, in lower case; empty if there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@lru_cache(maxsize=256)
def is_loopback(url: str) -> bool:
    """True if the URL certainly names this machine."""
    host = host_of(url)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def counted(count: int, noun: str) -> str:
    """Returns `1 label` or `1,234 labels`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def few(texts: Sequence[str], separator: str = ", ") -> str:
    """Returns the first ten texts as one, and how many more there are."""
    more = [f"and {len(texts) - 10:,} more"] if len(texts) > 10 else []
    return separator.join([*texts[:10], *more])


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is not a number that JSON and Python can hold")
    return number


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    distinct = dict(pairs)
    if len(distinct) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {twice[:40]!r} occurs twice in one object")
    return distinct
