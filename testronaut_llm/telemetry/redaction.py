"""Masks secrets in all texts that leave: known ones by value, in the forms that servers echo, others by pattern.

The forms of a known secret: as it is, in a URL, in JSON or `repr`, up to two of these inside each other, and base64,
as in a `Basic` header with any user name. Patterns find keys that were never added.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus

MASK = "[redacted]"

_SHORT = 8
_RANDOM = r"(?=[\w.~+/=-]{0,60}\d)"  # keys hold a digit, words of prose rarely do

_VALUE = r"[\w.~+/=!@#^*?:%$-]"
_MIXED = rf"(?={_VALUE}{{0,60}}[0-9])(?={_VALUE}{{0,60}}[a-z]){_VALUE}{{8,}}"
_NAME = r"(?:api|subscription|account|secret|private|signing|shared[-_]?access|secret[-_]?access)[-_]?key"

_KEYS = (
    ("API key", "sk- pk- rk-", rf"\b[spr]k-{_RANDOM}[\w-]{{20,}}"),
    ("API key", "gsk_ hf_ xai- pplx- nvapi- r8_ ya29.", r"\b(?:gsk_|hf_|xai-|pplx-|nvapi-|r8_|ya29\.)[\w-]{20,}"),
    ("GitHub token", "gh", r"\bgh[pousr]_\w{20,}"),
    ("GitHub or GitLab token", "github_pat_ glpat-", r"\b(?:github_pat_|glpat-)[\w-]{20,}"),
    ("Slack token", "xox xapp-", r"\b(?:xox[abeoprs]|xapp)-[\w-]{10,}"),
    ("Slack webhook", "hooks.slack.com", r"(\bhooks\.slack\.com/(?:services|workflows)/)[\w/]{20,}"),
    ("Google key", "aiza gocspx-", r"\b(?:AIza|GOCSPX-)[\w-]{24,}"),
    ("AWS access key", "akia asia", r"\b(?-i:(?:AKIA|ASIA)[0-9A-Z]{16})\b"),
    ("JWT", "eyj", r"\beyJ[\w-]{8,400}+\.[\w-]{8,}+\.[\w-]*"),
    ("private key", "private", r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"),
    ("npm token", "npm_", r"\bnpm_[a-z0-9]{36}\b"),
    ("PyPI token", "pypi-age", r"\bpypi-AgE[\w-]{30,}"),
    ("Stripe key", "_live_ _test_ whsec_", r"\b(?:[spr]k_(?:live|test)_|whsec_)[a-z0-9]{16,}"),
    ("Twilio key", "sk", r"\b(?-i:SK[0-9a-f]{32})\b"),
    ("SendGrid key", "sg.", r"\bSG\.[\w-]{16,80}\.[\w-]{16,80}"),
    ("Telegram token", ":aa", r"\b[0-9]{8,10}:AA[\w-]{32,36}"),
    (
        "access token",
        "dop_v1_ dckr_pat_ shpat_ hvs. lin_api_",
        r"\b(?:dop_v1_|dckr_pat_|shpat_|hvs\.|lin_api_)[\w-]{20,}",
    ),
)
_NAMED = (
    ("bearer token", "bearer", rf"(\bbearer\s+){_RANDOM}[\w.~+/=-]{{8,}}"),
    (
        "basic credentials",
        "basic",
        rf"(?=[ab])(?:(\bauthorization\W{{1,5}}basic\s+)[\w+/=-]{{6,}}|(\bbasic +){_RANDOM}[\w+/=-]{{16,}})",
    ),
    (
        "authorization header",
        "authorization",
        rf"(\bauthorization[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?(?:(?:token|apikey) +)?){_RANDOM}[\w.~+/=-]{{16,}}",
    ),
    (
        "key or password",
        "key token secret password",
        rf"(?=[acps])((?:{_NAME}|access[-_]?token|auth[-_]?token|client[-_]?secret|password)"
        rf"[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?){_RANDOM}[\w.~+/=-]{{8,}}",
    ),
    (
        "key or password",
        "key token secret pass pwd",
        rf"(?=[acpst_])((?:(?:(?<![a-z])|_)(?:token|secret|passwd|pwd)|passphrase|password|{_NAME})[\"']?\s?[:=]\s?[\"']?)"
        rf"(?![$%*]){_MIXED}",
    ),
    ("key or password", "--", rf"(--[\w-]{{0,20}}(?:password|passwd|token|secret|api-?key) )(?!-){_MIXED}"),
    ("password", "password", rf"(\blogin\s+\S{{1,64}}\s+password\s+){_RANDOM}[^\s\"'<>\[\]]{{8,}}"),
    ("cookie", "cookie", rf"(\b(?:set-)?cookie[\"']?: ?[\"']?[\w.-]{{1,40}}=){_RANDOM}[\w.~+/=%-]{{16,}}"),
    (
        "signed URL",
        "key= token= sig= signature=",
        r"([?&](?:[\w-]*key|[\w-]*token|sig|[\w-]*signature)=)(?!REDACTED)[^&\s\"'#<>\[\]]+",
    ),
    ("password in a URL", "://", r"(://[^/\s:@]{0,64}:)[^/\s:@]++(?=@)"),
)
"""Kind of secret, words of which a text in lower case holds one, and the pattern. A group, if there is one, stays.

`_KEYS` are always keys, `_NAMED` only by the word before them, which prose may also contain.
"""
_ESCAPES: tuple[Callable[[str], str], ...] = (
    lambda text: quote(text, errors="surrogatepass"),
    lambda text: quote(text, safe="", errors="surrogatepass"),
    lambda text: quote_plus(text, errors="surrogatepass"),
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    lambda text: repr(text)[1:-1],
)
_SECRET_NAMES = re.compile(
    r"(x?api|awssecretaccess)?key|(access|auth|bearer|azuread)?token|(client)?secret|password|(proxy)?authorization"
)


class Redactor:
    """Masks the secrets of one manager. Safe for threads."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._forms: list[tuple[str, re.Pattern[str]]] = []  # in lower case, and what masks all forms of its secret

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"

    def add(self, secret: str) -> None:
        """Masks this value from now on; one shorter than 8 characters only as a separate word."""
        secret = secret.strip()
        if not secret or secret in self._secrets:
            return
        once = {secret, *(escape(secret) for escape in _ESCAPES)}
        forms = once | {escape(form) for form in once for escape in _ESCAPES}
        pattern = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
        if len(secret) < _SHORT:
            pattern = rf"(?<![\w-])(?:{pattern})(?![\w-])"
        else:
            packed = {core for offset in range(3) for core in _base64_cores(secret, offset)}
            runs = (rf"(?<![\w+/-])[\w+/-]*{re.escape(core)}[\w+/-]*={{0,2}}" for core in packed)
            pattern, forms = "|".join((pattern, *runs)), forms | packed
        compiled = re.compile(pattern, re.IGNORECASE)
        self._forms.extend([(form.lower(), compiled) for form in forms])
        self._secrets.add(secret)

    def knows(self, text: str) -> bool:
        """True if the text holds a secret that was added."""
        lowered = text.lower()
        return any(form in lowered and pattern.search(text) for form, pattern in self._forms)

    def redact(self, text: str) -> str:
        """Returns the text with every known secret, and texts that look like one, replaced by `[redacted]`."""
        lowered = text.lower()
        for form, pattern in self._forms:
            if form in lowered:  # much faster than the pattern
                text = pattern.sub(MASK, text)
        return _without(_KEYS + _NAMED, text)


def find_keys(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Yields the kind and the place of each part of a text that looks like a key, with the word before it."""
    for kind, pattern in _likely(_KEYS + _NAMED, text):
        for match in re.finditer(pattern, text, re.IGNORECASE):
            yield kind, match


def looks_like_key(text: str) -> bool:
    """True if a text surely holds a key; `password=...` in prose does not count."""
    return _without(_KEYS, text) != text


def is_secret_name(name: str) -> bool:
    """True if a field, a header or a parameter of this name holds a secret."""
    return _SECRET_NAMES.fullmatch(re.sub(r"[-_ ]", "", name).lower()) is not None


def said(error: BaseException) -> str:
    """Returns the first line of a library's exception, or its class name if the text may quote a key."""
    words = str(error).partition("\n")[0]
    return type(error).__name__ if not words or "header" in words.lower() else words


def _likely(shapes: tuple[tuple[str, str, str], ...], text: str) -> list[tuple[str, str]]:
    """Returns kind and pattern of the shapes that may be there."""
    lowered = text.lower()
    return [(kind, pattern) for kind, hints, pattern in shapes if any(map(lowered.__contains__, hints.split()))]


def _without(shapes: tuple[tuple[str, str, str], ...], text: str) -> str:
    for _, pattern in _likely(shapes, text):
        text = re.sub(pattern, _mask, text, flags=re.IGNORECASE)
    return text


def _mask(found: re.Match[str]) -> str:
    return (found[found.lastindex] if found.lastindex else "") + MASK


def _base64_cores(secret: str, offset: int) -> set[str]:
    """Returns the base64 of a text after so many other bytes (mod 3), also in JSON and in a URL.

    Only the characters that do not depend on their neighbours.
    """
    raw = secret.encode("utf-8", "surrogatepass")
    core = base64.b64encode(b"\0" * offset + raw).decode()[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6]
    return {core, core.replace("+", "-").replace("/", "_"), core.replace("/", "\\/"), quote(core, safe="")}
