"""Masks secrets in all texts that leave: known ones by value, in the forms that servers echo, others by pattern.

The forms of a known secret: as it is, in a URL, in JSON or `repr`, up to two of these inside each other, and base64,
as in a `Basic` header with any user name. Patterns find keys that were never added.
"""

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
_NAME = (
    r"(?:(?:api|subscription|account|secret|private|signing|encryption|master|access|webhook|license)[-_]?key"
    r"|client-key-data|signing[-_]?secret)"
)

_PREFIXES = {
    "API key": "gsk_ hf_ xai- pplx- nvapi- r8_ fw_ tvly- pcsk_ lsv2_pt_ lsv2_sk_ csk- jina_",
    "GitHub token": "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
    "GitLab token": "glpat- glrt- gldt- glcbt- glptt- glft- glsoat- gloas-",
    "Google key": "aiza gocspx- ya29. 1//0",
    "Slack token": "xoxa- xoxb- xoxe- xoxe. xoxo- xoxp- xoxr- xoxs- xapp-",
    "Stripe key": "sk_live_ sk_test_ rk_live_ rk_test_ pk_live_ whsec_",
    "access token": (
        "dop_v1_ doo_v1_ dor_v1_ dckr_pat_ dckr_oat_ hvs. hvb. hvr. lin_api_ lin_oauth_ npm_ pypi- rubygems_ shpat_ "
        "shpss_ shpca_ shppa_ sq0atp- sq0csp- ntn_ figd_ pmak- glsa_ glc_ sntrys_ sntryu_ nrak- nrii- pscale_tkn_ "
        "pscale_pw_ sbp_ dp.pt. dp.st. hrku- nfp_ fo1_ fm2_ atatt3x atctt3x atbb age-secret-key-1 ezak ezte phx_ "
        "tskey- ico- dapi eaaa ltai"
    ),
}
"""How keys begin, by their kind."""
_REST = r"(?=[\w-]{0,60}?(?:\d|(?-i:[a-z][A-Z])))[\w-]{16,}(?:\.[\w-]{6,})*"
_KEYS = (
    *((kind, words, rf"\b(?:{'|'.join(map(re.escape, words.split()))}){_REST}") for kind, words in _PREFIXES.items()),
    ("API key", "sk- pk- rk-", rf"\b[spr]k-{_RANDOM}[\w-]{{20,}}"),
    ("API key", "key- -us", r"\bkey-[0-9a-f]{32}\b|\b[0-9a-f]{32}-us[0-9]{1,2}\b"),
    ("AWS access key", "akia asia", r"\b(?-i:(?:AKIA|ASIA)[0-9A-Z]{16})\b"),
    ("Twilio key", "sk", r"\b(?-i:SK[0-9a-f]{32})\b"),
    ("SendGrid key", "sg.", r"\bSG\.[\w-]{16,80}\.[\w-]{16,80}"),
    ("Telegram token", ":aa", r"\b[0-9]{8,10}:AA[\w-]{32,36}"),
    ("Discord token", "discord bot token", r"\b(?-i:[MNO][\w-]{23,27}\.[\w-]{6}\.)[\w-]{27,40}"),
    (
        "access token",
        ".atlasv1. pul- secret_",
        r"\b\w{14}\.atlasv1\.[\w-]{40,}|\bpul-[0-9a-f]{40}\b|\bsecret_[a-z0-9]{43}\b",
    ),
    ("access token", "sl. cio", rf"\bsl\.{_RANDOM}[\w-]{{60,}}|\bcio(?-i:{_RANDOM}[A-Za-z0-9]{{32}})\b"),
    ("JWT", "eyj", r"\beyJ[\w-]{8,400}+\.[\w-]{8,}+\.[\w-]*"),
    (
        "private key",
        "private",
        r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|$)",
    ),
    ("webhook", "hooks.slack.com", r"(\bhooks\.slack\.com/(?:services|workflows)/)[\w/]{20,}"),
    ("webhook", "/api/webhooks/", r"(/api/webhooks/[0-9]{10,25}/)[\w-]{30,}"),
)
_SIGN = r"\\{0,3}[\"']?\s{0,3}(?:=>|[:=]|>(?=[^<>\s]{8,200}</))\s{0,3}\\{0,3}[\"']?"
"""Between a name and its value: in YAML, JSON (also escaped) and shells; in Ruby, PHP, Perl; in XML."""
_FLAG = r"(?:-p|(?:-u|--user)[= ][^\s:]{1,64}:)"
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
        rf"(?=[acprs])((?:{_NAME}|(?:access|auth|refresh|session)[-_]?token|client[-_]?secret|password)"
        rf"{_SIGN}){_RANDOM}[\w.~+/=-]{{8,}}",
    ),
    (
        "key or password",
        "key token secret pass pwd auth",
        rf"(?=[acempst_\"'])((?:(?:(?<![a-z])|_)(?:token|secret|passwd|pwd)|_pass(?==)|passphrase|password"
        rf"|[\"'](?:pass|auth)(?=[\"'])|{_NAME}){_SIGN})(?![$%*]){_MIXED}",
    ),
    ("key or password", "--", rf"((?<!-)--[\w-]{{0,20}}(?:password|passwd|token|secret|api-?key) )(?!-){_MIXED}"),
    (
        "password",
        "curl mysql sshpass docker",
        rf"(\b(?:curl|mysql\w*|sshpass|docker login)\b[^\n]{{0,80}}? {_FLAG} ?){_MIXED}",
    ),
    ("password", "password", r"(\blogin\s+\S{1,64}\s+password\s+)(?=\S{0,60}\d)[^\s\"'<>\[\]]{8,}"),
    (
        "cookie",
        "cookie",
        r"(\b(?:set-)?cookie[\"']?: ?[\"']?(?:[\w.-]{1,40}=[^;=\s\"']{0,80}; ?){0,9}?[\w.-]{1,40}=)"
        rf"{_RANDOM}[\w.~+/=%-]{{16,}}[^\n\"']*",
    ),
    (
        "signed URL",
        "key= token= sig= signature= secret=",
        r"([?&](?:[\w-]*key|[\w-]*token|sig|[\w-]*signature|secret)=)(?!REDACTED)[^&\s\"'#<>\[\]]+",
    ),
    ("password in a URL", "://", r"(://[^/\s:@]{0,64}:)[^/\s:@]++(?=@)"),
    ("token in a URL", "://", r"(://)(?=[\w-]{0,60}\d)[\w-]{20,}(?=@)"),
)
"""Kind of secret, words of which a text in lower case holds one, and the pattern. A group, if there is one, stays.

`_KEYS` are always keys, `_NAMED` only by the word before them, which prose may also contain.
"""
_SHAPES = tuple([(kind, tuple(hints.split()), shape) for kind, hints, shape in _KEYS + _NAMED])
_LONG = 16
_HINTS = ("private", "eyj", "hooks.slack", *dict.fromkeys(hint for _, hints, _ in _NAMED for hint in hints.split()))
"""Words of which a text in lower case holds one if it holds a secret, unless it has a word of `_LONG` characters."""
_ESCAPES: tuple[Callable[[str], str], ...] = (
    lambda text: quote(text, errors="surrogatepass"),
    lambda text: quote(text, safe="", errors="surrogatepass"),
    lambda text: quote_plus(text, errors="surrogatepass"),
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    lambda text: repr(text)[1:-1],
)
SECRET_ENDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "_PASS", "_PWD")
"""Ends of the names of variables whose values are secrets; a number may follow."""
_SECRET_NAMES = re.compile(
    r"(x?api|awssecretaccess)?key|(access|auth|bearer|azuread)?token|(client)?secret|password|(proxy)?authorization"
)


Form = tuple[str, re.Pattern[str]]
"""One form of a secret, in lower case, and the pattern that finds all forms of that secret."""


class Redactor:
    """Masks the secrets of one manager. Safe for threads."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._forms: list[Form] = []

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"

    def add(self, secret: str) -> None:
        """Masks this value from now on; one shorter than 8 characters only as a separate word."""
        secret = secret.strip()
        if secret and secret not in self._secrets:
            self._forms.extend(forms_of(secret))
            self._secrets.add(secret)

    def knows(self, text: str) -> bool:
        """True if the text holds a secret that was added."""
        lowered = text.lower()
        for form, pattern in self._forms:  # noqa: SIM110 - a generator costs more than the search
            if form in lowered and pattern.search(text):
                return True
        return False

    def redact(self, text: str) -> str:
        """Returns the text with every known secret, and texts that look like one, replaced by `[redacted]`."""
        lowered = text.lower()
        for form, pattern in self._forms:
            if form in lowered:  # much faster than the pattern
                text = pattern.sub(MASK, text)
        for _, hints, shape in _SHAPES:
            if any(map(lowered.__contains__, hints)):
                text = re.sub(shape, _mask, text, flags=re.IGNORECASE)
        return text


def escaped(secret: str) -> set[str]:
    """Returns a secret as it is, and as a URL, JSON and `repr` write it."""
    return {secret, *(escape(secret) for escape in _ESCAPES)}


def forms_of(secret: str) -> list[Form]:
    """Returns the forms of a secret; one shorter than 8 characters counts only as a separate word."""
    forms = {twice for once in escaped(secret) for twice in escaped(once)}
    pattern = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    if len(secret) < _SHORT:
        pattern = rf"(?<![\w-])(?:{pattern})(?![\w-])"
    else:
        packed = {core for offset in range(3) for core in _base64_cores(secret, offset)}
        runs = (rf"(?<![\w+/-])[\w+/-]*{re.escape(core)}[\w+/-]*={{0,2}}" for core in packed)
        pattern, forms = "|".join((pattern, *runs)), forms | packed
    compiled = re.compile(pattern, re.IGNORECASE)
    return [(form.lower(), compiled) for form in forms]


def find_keys(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Yields the kind and the place of each part of a text that looks like a key, with the word before it."""
    lowered = text.lower()
    if max(map(len, text.split()), default=0) < _LONG and not any(map(lowered.__contains__, _HINTS)):
        return  # as most prompts
    for kind, hints, shape in _SHAPES:
        if any(map(lowered.__contains__, hints)):
            for match in re.finditer(shape, text, re.IGNORECASE):
                yield kind, match


def looks_like_key(text: str) -> bool:
    """True if a text surely holds a key; `password=...` in prose does not count."""
    return any(re.search(shape, text, re.IGNORECASE) for _, _, shape in _KEYS)


def is_secret_name(name: str) -> bool:
    """True if a field, a header or a parameter of this name holds a secret."""
    return _SECRET_NAMES.fullmatch(re.sub(r"[-_ ]", "", name).lower()) is not None


def said(error: BaseException) -> str:
    """Returns the first line of a library's exception, or its class name if the text may quote a key."""
    words = str(error).partition("\n")[0]
    return type(error).__name__ if not words or "header" in words.lower() else words


def _mask(found: re.Match[str]) -> str:
    return (found[found.lastindex] if found.lastindex else "") + MASK


def _base64_cores(secret: str, offset: int) -> set[str]:
    """Returns the base64 of a text after so many other bytes (mod 3), also in JSON and in a URL.

    Only the characters that do not depend on their neighbours.
    """
    raw = secret.encode("utf-8", "surrogatepass")
    core = base64.b64encode(b"\0" * offset + raw).decode()[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6]
    return {core, core.replace("+", "-").replace("/", "_"), core.replace("/", "\\/"), quote(core), quote(core, safe="")}
