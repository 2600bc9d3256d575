"""Takes secrets out of every text that leaves: those that are known by value, in any encoding, and by their shape.

By value is the promise: a secret that was added appears in no text that passes here, be it plain, escaped for a URL,
JSON, HTML or `repr`, in hex, or inside base64, also broken over lines. Shapes catch keys that were never added.
"""

from __future__ import annotations

import base64
import functools
import re
import sys
from collections.abc import Iterator

MASK = "[redacted]"

SHORT = 8
_ROUNDS = 4  # escapes inside escapes
_RANDOM = r"(?=[\w.~+/=-]{0,60}\d)"  # keys hold a digit, words of prose rarely do

_KEYS = (
    ("sk- pk- rk-", rf"\b[spr]k-{_RANDOM}[\w-]{{20,}}"),
    ("gsk_ hf_ xai- pplx- nvapi- r8_ ya29.", r"\b(?:gsk_|hf_|xai-|pplx-|nvapi-|r8_|ya29\.)[\w-]{20,}"),
    ("gh", r"\bgh[pousr]_\w{20,}"),
    ("github_pat_ glpat-", r"\b(?:github_pat_|glpat-)[\w-]{20,}"),
    ("xox", r"\bxox[abeoprs]-[\w-]{10,}"),
    ("aiza", r"\bAIza[\w-]{30,}"),
    ("akia asia", r"\b(?-i:(?:AKIA|ASIA)[0-9A-Z]{16})\b"),
    ("eyj", r"\beyJ[\w-]{8,400}+\.[\w-]{8,}+\.[\w-]*"),
    ("private", r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"),
)
_NAMED = (
    ("bearer", rf"(\bbearer\s+){_RANDOM}[\w.~+/=-]{{8,}}"),
    ("basic", rf"(\bauthorization\W{{1,5}}basic\s+)[\w+/=-]{{6,}}|(\bbasic +){_RANDOM}[\w+/=-]{{16,}}"),
    (
        "key token secret password",
        r"((?:api[-_]?key|subscription[-_]?key|access[-_]?token|auth[-_]?token|client[-_]?secret|password)"
        rf"[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?){_RANDOM}[\w.~+/=-]{{8,}}",
    ),
    (
        "key= token= sig= signature=",
        r"([?&](?:[\w-]*key|[\w-]*token|sig|[\w-]*signature)=)(?!REDACTED)[^&\s\"'#<>\[\]]+",
    ),
    ("://", r"(://[^/\s:@]{0,64}:)[^/\s:@]++(?=@)"),
)
"""Words of which a text in lower case holds one, and the pattern. A group, where there is one, stays.

`_KEYS` are keys wherever they stand, `_NAMED` only by the word before them, which prose may hold as well.
"""

_SECRET_NAMES = re.compile(
    r"(x?api|awssecretaccess)?key|(access|auth|bearer|azuread)?token|(client)?secret|password|(proxy)?authorization"
)
_ESCAPED = re.compile(
    rb"(?<!\\)\\++(?:u(?P<code>[0-9a-f]{4})|x(?P<octet>[0-9a-f]{2})|(?P<sign>[^\\]))|%(?:25)*(?P<url>[0-9a-f]{2})"
    rb"|&(?:amp;)*(?:#0{0,9}(?P<number>[0-9]{1,7})|#x0{0,9}(?P<hex>[0-9a-f]{1,6})|(?P<name>amp|lt|gt|quot|apos));",
    re.IGNORECASE,
)
_SURROGATES = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
_SIGNS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}


class Redactor:
    """Masks the secrets of one manager. Safe for threads."""

    def __init__(self) -> None:
        self._secrets: dict[str, _Secret] = {}

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"

    def add(self, secret: str) -> None:
        """Masks this value from now on. One shorter than 8 characters only where it stands alone."""
        secret = secret.strip()
        if secret and secret not in self._secrets:
            self._secrets = {**self._secrets, secret: _Secret(secret)}

    def knows(self, text: str) -> bool:
        """True if the text holds a secret that was added."""
        return self._masked(text) is not None

    def redact(self, text: str) -> str:
        """Returns the text with every known secret, and whatever looks like one, replaced by `[redacted]`.

        A text that hides a known secret behind escapes comes back without its escapes.
        """
        masked = self._masked(text)
        return _without_shapes(text if masked is None else masked, (*_KEYS, *_NAMED))

    def _masked(self, text: str) -> str | None:
        """Returns the text without the secrets that were added; None if it holds none."""
        if not self._secrets:
            return None
        view, masked = _bytes(text), None
        for _ in range(_ROUNDS):
            squeezed, before = b"".join(view.lower().split()), view
            for secret in self._secrets.values():
                view = secret.masked_in(view, squeezed)
            if view != before:
                masked = view
            before, view = view, _unescaped(view)
            if view == before:
                break
        return None if masked is None else masked.decode("utf-8", "replace")


def find_keys(text: str) -> Iterator[re.Match[str]]:
    """Yields each part of a text that looks like a key, with the word before it that says so."""
    for hints, pattern in (*_KEYS, *_NAMED):
        if _may_match(text.lower(), hints):
            yield from re.finditer(pattern, text, re.IGNORECASE)


def looks_like_key(text: str) -> bool:
    """True if a text holds what can only be a key; `password=...` in prose is none."""
    return _without_shapes(text, _KEYS) != text


def is_secret_name(name: str) -> bool:
    """True if a field, a header or a parameter of this name holds a secret."""
    return _SECRET_NAMES.fullmatch(re.sub(r"[-_ ]", "", name).lower()) is not None


def said(error: BaseException) -> str:
    """Returns the first line of what a library's exception says, or its name: words about a header may quote a key."""
    words = str(error).partition("\n")[0]
    return type(error).__name__ if not words or "header" in words.lower() else words


class _Secret:
    """One secret in every form that it has in an unescaped text."""

    def __init__(self, secret: str) -> None:
        raw = _bytes(secret)
        self._whole, self._packed = set(_views(raw)), []
        if len(secret) >= SHORT:
            cores = (core for offset in range(3) for core in _base64_cores(raw, offset))
            self._packed = [raw.hex().encode(), *cores]
        spaced = (form.replace(b" ", sign) for form in self._whole for sign in (b"", b"+"))
        self._squeezed = [b"".join(form.lower().split()) for form in (*spaced, *self._packed)]

    def masked_in(self, text: bytes, squeezed: bytes) -> bytes:
        """Returns the text without this secret. `squeezed` is the text in lower case without white space."""
        if not any(form in squeezed for form in self._squeezed):  # much faster than the pattern
            return text
        return self._pattern.sub(MASK.encode(), text)

    @functools.cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        """Matches each form; compiled late, since that takes milliseconds."""
        if not self._packed:
            return re.compile(rb"(?<![\w-])(?:%b)(?![\w-])" % b"|".join(map(re.escape, self._whole)))
        runs = (rb"(?<![\w+/-])[\w+/-]*%b[\w+/-]*={0,2}" % _in_lines(form) for form in self._packed)
        return re.compile(b"|".join((*map(_in_lines, self._whole), *runs)), re.IGNORECASE)


def _may_match(lowered: str, hints: str) -> bool:
    return any(hint in lowered for hint in hints.split())


def _without_shapes(text: str, shapes: tuple[tuple[str, str], ...]) -> str:
    lowered = text.lower()
    for hints, pattern in shapes:
        if _may_match(lowered, hints):
            text = re.sub(pattern, _mask, text, flags=re.IGNORECASE)
    return text


def _mask(found: re.Match[str]) -> str:
    return (found[found.lastindex] if found.lastindex else "") + MASK


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _in_lines(form: bytes) -> bytes:
    """Returns a pattern of a form that line ends may break anywhere, and whose blanks a URL may have replaced."""
    signs = (bytes([octet]) for octet in form)
    return rb"\s*".join(rb"[\s+]*" if sign.isspace() else re.escape(sign) for sign in signs)


def _views(raw: bytes) -> Iterator[bytes]:
    """Yields a text as it is, and as it is after its escapes are undone once, twice, ..."""
    for _ in range(_ROUNDS):
        yield raw
        raw = _unescaped(raw)


def _unescaped(raw: bytes) -> bytes:
    """Undoes the escapes of URLs, JSON, HTML and `repr`, once."""
    if not any(sign in raw for sign in (b"\\", b"%", b"&")):
        return raw
    return _SURROGATES.sub(_character, _ESCAPED.sub(_meant, raw))


def _character(pair: re.Match[bytes]) -> bytes:
    """Returns the character that JSON writes as two escapes, each for a surrogate."""
    return pair[0].decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16").encode()


def _meant(found: re.Match[bytes]) -> bytes:
    """Returns what an escape stands for."""
    kind, value = str(found.lastgroup), found[str(found.lastgroup)].lower()
    if kind in ("octet", "url"):
        return bytes.fromhex(value.decode())
    if kind in ("sign", "name"):
        return _SIGNS.get(value, found[kind])
    code = int(value, 10 if kind == "number" else 16)
    return _bytes(chr(code)) if code <= sys.maxunicode else found[0]


def _base64_cores(raw: bytes, offset: int) -> set[bytes]:
    """Returns what base64, in either alphabet, makes of the bytes if `offset` (mod 3) others stand before them.

    Only the characters that depend on nothing around them; so `Basic` headers, with any user name, need no rule.
    """
    encoded = base64.b64encode(b"\0" * offset + raw)
    core = encoded[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6]
    return {core, core.replace(b"+", b"-").replace(b"/", b"_")}
