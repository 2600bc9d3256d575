"""Secrets of many kinds, made by a program, and real help and log texts to plant them in.

`data/help_and_logs.json` has the beginnings of what the named commands printed on a Debian system.
"""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parent / "data" / "help_and_logs.json"
_WORD, _HEX, _UPPER = string.ascii_letters + string.digits, "0123456789abcdef", string.ascii_uppercase + string.digits


class Planted(NamedTuple):
    """A text with the secrets that it holds."""

    text: str
    secrets: tuple[str, ...]


def texts() -> list[str]:
    """The texts as they were printed."""
    return [one["text"] for one in json.loads(DATA.read_text("utf-8"))]


def _of(letters: str, length: int) -> Callable[[random.Random], str]:
    """Random letters that contain a digit and a letter."""
    return lambda chance: (
        "".join(chance.choices(letters, k=length - 2)) + "7a"
        if letters != _UPPER
        else "".join(chance.choices(letters, k=length))
    )


def _after(prefix: str, letters: str, length: int) -> Callable[[random.Random], str]:
    rest = _of(letters, length)
    return lambda chance: prefix + rest(chance)


def _jwt(chance: random.Random) -> str:
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": chance.randrange(10**9), "iat": 1516239022}]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*coded, _of(_WORD, 43)(chance)])


def _private_key(chance: random.Random) -> str:
    lines = "\n".join(_of(_WORD + "+/", 64)(chance) for _ in range(4))
    return f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----"


def _base64(length: int) -> Callable[[random.Random], str]:
    return lambda chance: base64.b64encode(chance.randbytes(length - 1) + b"7").decode()


def _password(chance: random.Random) -> str:
    return _of(_WORD, 6)(chance) + chance.choice("!@#^*") + _of(_WORD, 6)(chance)


KINDS: dict[str, tuple[str, Callable[[random.Random], str]]] = {
    "OpenAI": ("Incorrect API key provided: {}.", _after("sk-proj-", _WORD, 48)),
    "Anthropic": ("using {} for requests", _after("sk-ant-api03-", _WORD, 60)),
    "Groq": ("GROQ_API_KEY={}", _after("gsk_", _WORD, 52)),
    "Hugging Face": ("login with {} succeeded", _after("hf_", string.ascii_letters, 34)),
    "GitHub": ("remote: https://{}@github.com/o/r.git", _after("ghp_", _WORD, 36)),
    "GitHub, fine": ("GH_TOKEN: {}", _after("github_pat_", _WORD, 70)),
    "GitLab": ("PRIVATE-TOKEN {}", _after("glpat-", _WORD, 20)),
    "Slack": ("posting as {}", _after("xoxb-", _WORD, 40)),
    "Slack webhook": ("POST https://hooks.slack.com/services/{}", lambda c: f"T0AB/B0CD/{_of(_WORD, 24)(c)}"),
    "Google": ("?q=1 key {}", _after("AIza", _WORD, 35)),
    "AWS id": ("aws_access_key_id = {}", _after("AKIA", _UPPER, 16)),
    "AWS secret": ("aws_secret_access_key = {}", _base64(30)),
    "JWT": ("session {} expired", _jwt),
    "private key": ("wrote\n{}\nto id_rsa", _private_key),
    "URL": ("postgres://app:{}@db.internal:5432/app", _of(_WORD, 12)),
    "short URL": ("redis://cache:{}@10.0.0.5:6379/0", _of(_WORD, 6)),
    "bearer": ("> Authorization: Bearer {}", _of(_WORD, 40)),
    "basic": ("> Authorization: Basic {}", _base64(24)),
    "password": ('password="{}"', _password),
    "password flag": ("+ mysql --password {} --host db", _of(_WORD, 16)),
    "npm": ("//registry.example.com/:_authToken={}", _after("npm_", _WORD, 36)),
    "PyPI": ("uploading with {}", _after("pypi-AgEIcHlwaS5vcmc", _WORD, 120)),
    "Stripe": ("stripe: {} (test mode)", _after("sk_test_", _WORD, 24)),
    "Twilio": ("twilio: key {}", _after("SK", _HEX, 32)),
    "SendGrid": ("smtp: apikey {}", lambda c: f"SG.{_of(_WORD, 22)(c)}.{_of(_WORD, 43)(c)}"),
    "Azure storage": ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey={};End", _base64(64)),
    "Azure bus": ("SharedAccessKeyName=root;SharedAccessKey={}", _base64(32)),
    "signed URL": ("GET https://a.blob.core.windows.net/c/f?sv=2024&sig={}&se=1", _of(_WORD, 44)),
    "Telegram": ("bot {} started", lambda c: f"{c.randrange(10**9, 10**10)}:AA{_of(_WORD, 33)(c)}"),
    "client secret": ('"client_secret": "{}"', _of(_WORD, 32)),
    "environment": ("export DEPLOY_TOKEN={}", _of(_HEX, 40)),
    "cookie": ("Set-Cookie: session={}; HttpOnly", _of(_WORD, 32)),
    "netrc": ("machine h login me password {}", _of(_WORD, 14)),
    "Docker": ("docker login -u me with {}", _after("dckr_pat_", _WORD, 27)),
    "Docker file": ('{{"auths": {{"r.example.com": {{"auth": "{}"}}}}}}', _base64(24)),
    "Docker flag": ("+ docker login -u me -p {} r.example.com", _password),
    "curl": ("+ curl -sS -u admin:{} https://api.example.com", _password),
    "mysql": ("+ mysql -u root -p{} app", _password),
    "token in a URL": ("fatal: https://{}@git.example.com/o/r.git not found", _of(_WORD, 40)),
    "second cookie": ("Cookie: theme=dark; sid={}", _of(_WORD, 32)),
    "AWS session": ('{{"SessionToken": "{}"}}', _base64(120)),
    "PGP": ("{}", lambda c: _private_key(c).replace("RSA PRIVATE KEY", "PGP PRIVATE KEY BLOCK")),
    "kubeconfig": ("    client-key-data: {}", _base64(90)),
    "Discord": ("bot ready with {}", lambda c: f"M{_of(_WORD, 24)(c)}.{_of(_WORD, 6)(c)}.{_of(_WORD, 30)(c)}"),
    "Discord webhook": ("POST https://discord.com/api/webhooks/761125651788002158/{}", _of(_WORD, 68)),
    "Mailgun": ("mailgun says {}", _after("key-", _HEX, 32)),
    "Mailchimp": ("mailchimp says {}", lambda c: f"{_of(_HEX, 32)(c)}-us12"),
    "Terraform": ("terraform says {}", lambda c: f"{_of(_WORD, 14)(c)}.atlasv1.{_of(_WORD, 67)(c)}"),
    "Pulumi": ("pulumi says {}", _after("pul-", _HEX, 40)),
    "Notion": ("notion says {}", _after("secret_", _WORD, 43)),
    "Dropbox": ("dropbox says {}", _after("sl.", _WORD, 130)),
    "crates.io": ("cargo says {}", _after("cio", _WORD, 32)),
    **{
        name: (f"{name.lower()} says {{}}", _after(prefix, letters, length))
        for name, prefix, letters, length in (
            ("GitLab runner", "glrt-", _WORD, 20),
            ("Square", "sq0atp-", _WORD, 22),
            ("Databricks", "dapi", _HEX, 32),
            ("Figma", "figd_", _WORD, 40),
            ("Postman", "PMAK-", _HEX, 59),
            ("Grafana", "glsa_", _WORD, 41),
            ("Sentry", "sntryu_", _HEX, 64),
            ("New Relic", "NRAK-", _UPPER, 27),
            ("PlanetScale", "pscale_tkn_", _WORD, 43),
            ("Supabase", "sbp_", _HEX, 40),
            ("Doppler", "dp.pt.", _WORD, 43),
            ("RubyGems", "rubygems_", _HEX, 48),
            ("Heroku", "HRKU-AA", _WORD, 58),
            ("Netlify", "nfp_", _WORD, 36),
            ("Fly", "fo1_", _WORD, 43),
            ("Atlassian", "ATATT3xFfGF0", _WORD, 180),
            ("Bitbucket", "ATBB", _WORD, 32),
            ("Shopify", "shpss_", _HEX, 32),
            ("age", "AGE-SECRET-KEY-1", _UPPER, 58),
            ("Pinecone", "pcsk_", _WORD, 60),
            ("LangSmith", "lsv2_pt_", _HEX, 32),
            ("Tavily", "tvly-", _WORD, 32),
        )
    },
}
"""A line that holds a secret of this kind, and what makes one."""


def planted(many: int = 500, seed: int = 24) -> list[Planted]:
    """The texts with `many` secrets among their lines, each kind about as often as the others."""
    chance, found = random.Random(seed), [(text.splitlines(), list[str]()) for text in texts()]
    kinds = list(KINDS.values())
    for number in range(many):
        lines, secrets = found[number % len(found)]
        line, make = kinds[number % len(kinds)]
        secret = make(chance)
        lines.insert(chance.randrange(len(lines) + 1), line.format(secret))
        secrets.append(secret)
    return [Planted("\n".join(lines), tuple(secrets)) for lines, secrets in found]


def harmless(seed: int = 24) -> list[str]:
    """The texts with random-looking data that is not a secret: git digests, UUIDs, a picture in base64."""
    chance = random.Random(seed)

    def digits(length: int) -> str:
        return "".join(chance.choices(_HEX, k=length))

    picture = base64.b64encode(b"\x89PNG\r\n" + chance.randbytes(600)).decode()
    return [
        f"{text}\ncommit {digits(40)}\nindex {digits(7)}..{digits(7)}\nsha256:{digits(64)}\n"
        f"id {digits(8)}-{digits(4)}-4{digits(3)}-8{digits(3)}-{digits(12)}\n![](data:image/png;base64,{picture})"
        for text in texts()
    ]
