"""Secrets are taken out of every text that leaves: by value, in whatever encoding, and by their shape.

By value is the promise: a secret that was resolved is added once, and no text that passes here
shows it again, plain, quoted for a URL, JSON or `repr`, in hex, or inside base64. The shapes are a
second net for keys that nobody told us about; they leave prose alone.
"""

from __future__ import annotations

import base64
import re

MASK = "[redacted]"

_SHORT = 8
_RANDOM = r"(?=[\w.~+/=-]{0,60}\d)"  # words of prose rarely hold a digit, keys always do

_SHAPES: tuple[tuple[tuple[str, ...], str], ...] = (
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
"""What a text in small letters has to hold, and the pattern, compiled when such a text comes."""


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
        """Does the text hold a secret that was added?"""
        lowered = text.lower()
        return any(one.may_be_in(lowered) and one.pattern.search(text) for one in self._secrets.values())

    def redact(self, text: str) -> str:
        """The text with every known secret, and whatever looks like one, replaced by `[redacted]`."""
        lowered = text.lower()
        for secret in self._secrets.values():
            if secret.may_be_in(lowered):
                text = secret.pattern.sub(MASK, text)
        for hints, pattern in _SHAPES:
            if any(hint in lowered for hint in hints):
                text = re.sub(pattern, rf"\g<keep>{MASK}", text, flags=re.IGNORECASE)
        return text


class _Secret:
    """A pattern for every form of one secret, and the parts of them that no encoder touches.

    The parts are looked for first: a plain search is hundreds of times faster than the pattern.
    """

    def __init__(self, secret: str) -> None:
        if len(secret) < _SHORT:
            self.pattern = re.compile(rf"(?<![\w-]){re.escape(secret)}(?![\w-])")
            self.traces = [secret.lower()]
            return
        raw = secret.encode(errors="surrogateescape")
        cores = [core for offset in range(3) for core in _base64_core(raw, offset)]
        quoted = "".join(map(_in_any_quoting, secret))
        forms = [quoted, raw.hex(), *(rf"(?<![\w+/-])[\w+/-]*{re.escape(core)}[\w+/-]*={{0,2}}" for core in cores)]
        self.pattern = re.compile("|".join(forms), re.IGNORECASE)
        self.traces = [max(re.findall(r"[a-z0-9]*", form.lower()), key=len) for form in (secret, raw.hex(), *cores)]

    def may_be_in(self, lowered: str) -> bool:
        """Is any of those parts in a text of small letters?"""
        return any(trace in lowered for trace in self.traces)


def _in_any_quoting(char: str) -> str:
    """One character as a URL, JSON, HTML or `repr` (of text or bytes) writes it, once or twice over."""
    if char.isascii() and char.isalnum():
        return char
    octets = char.encode(errors="surrogateescape")
    in_url = "".join(f"%(?:25)*{octet:02x}" for octet in octets)
    in_bytes = "".join(rf"\\+x{octet:02x}" for octet in octets)
    plain = r"[ +]" if char == " " else re.escape(char)
    in_html = rf"&#(?:0*{ord(char)}|x0*{ord(char):x});|{re.escape(_html_of(char))}"
    return rf"(?:\\*{plain}|{in_url}|{in_bytes}|\\+u{ord(char):04x}|{in_html})"


def _html_of(char: str) -> str:
    import html  # a table of thousands of names

    return html.escape(char)


def _base64_core(raw: bytes, offset: int) -> set[str]:
    """What base64, in either alphabet, makes of the bytes wherever `offset` (mod 3) others stand before them.

    Only the characters that depend on nothing around them; so `Basic` headers, with any user name,
    need no rule of their own.
    """
    encoded = base64.b64encode(b"\0" * offset + raw).decode()
    core = encoded[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6]
    return {core, core.replace("+", "-").replace("/", "_")}
