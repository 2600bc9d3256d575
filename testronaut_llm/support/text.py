"""Text from outside (files, JSON, durations, URLs, reasoning tags), text for output, and amounts of money.

A server that does not know a chat template returns the model's reasoning as text. Some templates put the opening tag
into the prompt, so that the text begins inside the reasoning and has only the closing tag.
"""

import ipaddress
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal, DivisionByZero, InvalidOperation, Overflow, localcontext
from functools import lru_cache, wraps
from itertools import islice
from pathlib import Path
from typing import Any, ParamSpec, TypeGuard, TypeVar
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


P = ParamSpec("P")
R = TypeVar("R")

MOST_USD = 1_000_000
"""Most USD of one request; sums of larger amounts would overflow the ledger."""
MOST_TOKENS = 2**40
"""Most tokens of one request, for the same reason."""

CONTEXT = Context(  # names every argument: the program may have changed `decimal.DefaultContext`
    *(28, ROUND_HALF_EVEN, -999_999, 999_999, 1, 0, []), traps=[DivisionByZero, InvalidOperation, Overflow]
)
"""The decimal context of all computations with money."""
_TWO_DIGITS = Context(prec=2, rounding=ROUND_HALF_EVEN)
_CENT = Decimal("0.01")


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a function in `CONTEXT`. It must not be a generator or a coroutine."""

    @wraps(function)
    def inside(*args: P.args, **given: P.kwargs) -> R:
        with localcontext(CONTEXT):
            return function(*args, **given)

    return inside


def is_amount(value: Any) -> bool:
    """True if it is a finite number of USD, as an int or a Decimal, from 0 to `MOST_USD`."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return False
    return Decimal(value).is_finite() and 0 <= value <= MOST_USD


def is_count(value: Any) -> TypeGuard[int]:
    """True if it is a plain int from 0 to `MOST_TOKENS`."""
    return type(value) is int and 0 <= value <= MOST_TOKENS


@exact
def usd(amount: Decimal) -> str:
    """Returns `$1.25` or `$0.0012`: cents, or two digits of what is less than ten cents."""
    if amount == 0:
        return "$0"
    if abs(amount) >= _CENT * 10:
        return f"${amount.quantize(_CENT, rounding=ROUND_HALF_EVEN):,f}"
    return f"${_TWO_DIGITS.plus(amount).normalize():f}"


TAGS = {
    "<think>": "</think>",  # DeepSeek, Qwen, GLM, MiniMax, Hunyuan, Phi, Nemotron, Granite, ERNIE, Olmo
    "<thinking>": "</thinking>",  # Apriel
    "<thought>": "</thought>",  # EXAONE
    "<reasoning>": "</reasoning>",  # Reka
    "<seed:think>": "</seed:think>",  # Seed-OSS
    "<longcat_think>": "</longcat_think>",  # LongCat
    "[THINK]": "[/THINK]",  # Magistral
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A and R
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "<|channel>thought": "<channel|>",  # Gemma
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",  # gpt-oss
    "◁think▷": "◁/think▷",  # Kimi
}
"""Opening and closing tags."""
_BEGINNINGS = frozenset({tag[:length] for tag in TAGS for length in range(len(tag))})
"""Texts that more text can make an opening tag."""


class ReasoningFilter:
    """Removes the reasoning of one answer that arrives in pieces.

    Reasoning without an opening tag is passed on: only its end shows what it is.
    """

    def __init__(self, tags: Mapping[str, str]) -> None:
        self._tags, self._held = tags, ""
        self._closing = ""  # of the reasoning that has begun
        self._through = self._found = False

    def take(self, piece: str) -> str:
        """Returns the text that can be passed on now."""
        if self._through:
            return piece
        self._held += piece
        while True:
            if self._closing:
                reasoning, closed, rest = self._held.partition(self._closing)
                if not closed:
                    self._held = reasoning[-len(self._closing) :]
                    return ""
                self._held, self._closing = rest, ""
            start = self._held.lstrip()
            if start in _BEGINNINGS:
                return ""
            opening = next(filter(start.startswith, self._tags), None)
            if opening is None:
                return self.end()
            self._held, self._closing, self._found = start.removeprefix(opening), self._tags[opening], True

    def end(self) -> str:
        """Returns the text not yet passed on, unless it is reasoning without an end."""
        held, self._held, self._through = self._held, "", True
        if self._closing:
            return ""
        return held.lstrip() if self._found else held


def tags_for(prompts: Iterable[str]) -> dict[str, str]:
    """Returns the tags that do not occur in the prompt: the answer may be about those, or was asked to use them."""
    spoken, tags = "\n".join(prompts), dict(TAGS)
    for opening, closing in TAGS.items():
        if closing in spoken:
            del tags[opening]
    return tags


def split(text: str, tags: Mapping[str, str] = TAGS) -> tuple[str, str]:
    """Returns the reasoning before an answer, with its tags, and the answer."""
    pieces = ReasoningFilter(tags)
    answer = pieces.take(text) + pieces.end()
    after = []
    for opening, closing in tags.items():
        before, closed, rest = answer.partition(closing)
        if closed and opening not in before:
            after.append(rest)
    if after:
        try:
            json.loads(answer)  # JSON may hold a tag in a string
        except (ValueError, RecursionError):
            answer = max(after, key=len).lstrip()
    return text[: len(text) - len(answer)], answer
