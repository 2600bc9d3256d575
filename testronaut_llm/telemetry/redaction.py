"""Secrets are taken out of every text that leaves: by value, in whatever encoding, and by their shape.

By value is the promise: a secret that was resolved is added once, and no text that passes here
shows it again: plain, with any of its characters escaped for a URL, JSON, HTML or `repr`, in hex, or
inside base64, also broken over lines. The shapes are a second net for keys that nobody told us about;
they leave prose alone.
"""

from __future__ import annotations

import base64
import functools
import re
import sys
from collections.abc import Iterator

MASK = "[redacted]"

_SHORT = 8
_ROUNDS = 4  # escapes inside escapes
_RANDOM = r"(?=[\w.~+/=-]{0,60}\d)"  # words of prose rarely hold a digit, keys always do

_Shapes = tuple[tuple[tuple[str, ...], str], ...]

_KEYS: _Shapes = (
    (("sk-",), rf"\b(?P<keep>)sk-{_RANDOM}[\w-]{{20,}}"),
    (
        ("gsk_", "hf_", "xai-", "pplx-", "nvapi-", "r8_"),
        r"\b(?P<keep>)(?:gsk_|hf_|xai-|pplx-|nvapi-|r8_)[\w-]{20,}",
    ),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\b(?P<keep>)gh[pousr]_\w{20,}"),
    (("github_pat_", "glpat-"), r"\b(?P<keep>)(?:github_pat_|glpat-)[\w-]{20,}"),
    (("xox",), r"\b(?P<keep>)xox[abeoprs]-[\w-]{10,}"),
    (("aiza",), r"\b(?P<keep>)AIza[\w-]{30,}"),
    (("akia", "asia"), r"\b(?P<keep>)(?-i:(?:AKIA|ASIA)[0-9A-Z]{16})\b"),
    (("eyj",), r"\b(?P<keep>)eyJ[\w-]{8,400}+\.[\w-]{8,}+\.[\w-]*"),
    (
        ("private key-----",),
        r"(?P<keep>)-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    ),
)
_NAMED: _Shapes = (
    (("bearer",), rf"(?P<keep>\bbearer\s+){_RANDOM}[\w.~+/=-]{{8,}}"),
    (("basic",), r"(?P<keep>\bauthorization\W{1,5}basic\s+)[\w+/=-]{6,}"),
    (
        ("key", "token", "secret", "password"),
        r"(?P<keep>(?:api[-_]?key|subscription[-_]?key|access[-_]?token|auth[-_]?token|client[-_]?secret|password)"
        rf"[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?){_RANDOM}[\w.~+/=-]{{8,}}",
    ),
    (
        ("key=", "token=", "sig=", "signature="),
        r"(?P<keep>[?&](?:[\w-]*key|[\w-]*token|sig|[\w-]*signature)=)[^&\s\"'#<>\[\]]+",
    ),
    (("://",), r"(?P<keep>://[^/\s:@]{0,64}:)[^/\s:@]++(?=@)"),
)
"""What a text in small letters has to hold, and the pattern, compiled when such a text comes.

`_KEYS` show by themselves what they are, `_NAMED` by the word before them, which prose may hold as well.
"""

_ESCAPED = re.compile(
    rb"(?<!\\)\\++(?:u(?P<code>[0-9a-f]{4})|x(?P<octet>[0-9a-f]{2})|(?P<sign>[^\\]))|%(?:25)*(?P<url>[0-9a-f]{2})"
    rb"|&(?:amp;)*(?:#0{0,9}(?P<number>[0-9]{1,7})|#x0{0,9}(?P<hex>[0-9a-f]{1,6})|(?P<name>amp|lt|gt|quot|apos));",
    re.IGNORECASE,
)
_SIGNS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}


class Redactor:
    """Knows the secrets of one manager, and masks them; safe for threads."""

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
        return any(self._held(_bytes(text)))

    def redact(self, text: str) -> str:
        """Returns the text with every known secret, and whatever looks like one, replaced by `[redacted]`.

        A text that hides a known secret behind escapes comes back without its escapes.
        """
        held = self._held(raw := _bytes(text))
        while held and not held[-1]:
            held.pop()
        found = {secret for view in held for secret in view}
        for depth, _ in enumerate(held):
            raw = _ESCAPED.sub(_meant, raw) if depth else raw
            for secret in found:
                raw = secret.pattern.sub(MASK.encode(), raw)
        return _masked(raw.decode("utf-8", "replace") if held else text, (*_KEYS, *_NAMED))

    def _held(self, raw: bytes) -> list[list[_Secret]]:
        """Returns the secrets in each view of a text."""
        secrets = self._secrets.values()
        views = [(plain, b"".join(plain.lower().split())) for plain in _views(raw)] if secrets else []
        return [[one for one in secrets if one.may_be_in(all_) and one.pattern.search(plain)] for plain, all_ in views]


def looks_like_key(text: str) -> bool:
    """True if a text holds what can only be a key; `password=...` in prose is none."""
    return _masked(text, _KEYS) != text


def said(error: BaseException) -> str:
    """Returns the first line of what a library's exception says, or its name: words about a header may quote a key."""
    words = str(error).partition("\n")[0]
    return type(error).__name__ if not words or "header" in words.lower() else words


def _masked(text: str, shapes: _Shapes) -> str:
    lowered = text.lower()
    for hints, pattern in shapes:
        if any(hint in lowered for hint in hints):
            text = re.sub(pattern, rf"\g<keep>{MASK}", text, flags=re.IGNORECASE)
    return text


class _Secret:
    """A pattern for every form of one secret in an unescaped text, and the forms to look for first, which is faster."""

    def __init__(self, secret: str) -> None:
        raw = _bytes(secret)
        self._whole, self._packed = {raw, *_views(raw)}, []
        if len(secret) >= _SHORT:
            cores = (core for offset in range(3) for core in _base64_core(raw, offset))
            self._packed = [raw.hex().encode(), *cores]
        spaced = (form.replace(b" ", sign) for form in self._whole for sign in (b"", b"+"))
        self._forms = [b"".join(form.lower().split()) for form in (*spaced, *self._packed)]

    @functools.cached_property
    def pattern(self) -> re.Pattern[bytes]:
        """Matches each form; made late, since that takes milliseconds."""
        if not self._packed:
            return re.compile(rb"(?<![\w-])(?:%b)(?![\w-])" % b"|".join(map(re.escape, self._whole)))
        runs = (rb"(?<![\w+/-])[\w+/-]*%b[\w+/-]*={0,2}" % _in_lines(form) for form in self._packed)
        return re.compile(b"|".join((*map(_in_lines, self._whole), *runs)), re.IGNORECASE)

    def may_be_in(self, joined: bytes) -> bool:
        """True if one of the forms is in a text in lower case without white space."""
        return any(form in joined for form in self._forms)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _in_lines(form: bytes) -> bytes:
    """Returns a pattern of a form that line ends may break anywhere, and whose blanks a URL may have replaced."""
    signs = (bytes([octet]) for octet in form)
    return rb"\s*".join(rb"[\s+]*" if sign.isspace() else re.escape(sign) for sign in signs)


def _views(raw: bytes) -> Iterator[bytes]:
    """Yields a text as it came, and what it is once the escapes of URLs, JSON, HTML and `repr` are undone, again."""
    for _ in range(_ROUNDS):
        yield raw
        before, raw = raw, _ESCAPED.sub(_meant, raw) if any(map(raw.__contains__, (b"\\", b"%", b"&"))) else raw
        if raw == before:
            return


def _meant(found: re.Match[bytes]) -> bytes:
    """Returns what an escape stands for."""
    kind, value = str(found.lastgroup), found[str(found.lastgroup)].lower()
    if kind in ("octet", "url"):
        return bytes.fromhex(value.decode())
    if kind in ("sign", "name"):
        return _SIGNS.get(value, found[kind])
    code = int(value, 10 if kind == "number" else 16)
    return _bytes(chr(code)) if code <= sys.maxunicode else found[0]


def _base64_core(raw: bytes, offset: int) -> set[bytes]:
    """What base64, in either alphabet, makes of the bytes wherever `offset` (mod 3) others stand before them.

    Only the characters that depend on nothing around them; so `Basic` headers, with any user name,
    need no rule of their own.
    """
    encoded = base64.b64encode(b"\0" * offset + raw)
    core = encoded[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6]
    return {core, core.replace(b"+", b"-").replace(b"/", b"_")}
