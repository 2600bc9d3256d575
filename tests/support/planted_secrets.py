"""Secrets of many kinds, made by a program, and real help and log texts to plant them in.

`data/help_and_logs.json` has the beginnings of what the named commands printed on a Debian system.
"""

from __future__ import annotations

import base64
import json
import random
import re
import string
from pathlib import Path
from typing import NamedTuple

_WORD = string.ascii_letters + string.digits
_LETTERS = {"w": _WORD, "W": _WORD + "+/", "a": string.ascii_letters, "h": "0123456789abcdef", "d": string.digits,
            "u": string.ascii_uppercase + string.digits, "p": "!@#^*"}  # fmt: skip
_KEY = "«-----BEGIN {0}-----\n<W64>\n<W64>\n<W64>\n<W64>\n-----END {0}-----»"

_OTHERS = {
    "Mailgun": "key-<h32>", "Mailchimp": "<h32>-us12", "Terraform": "<w14>.atlasv1.<w67>", "Pulumi": "pul-<h40>",
    "Notion": "secret_<w43>", "Dropbox": "sl.<w130>", "cargo": "cio<w32>", "GitLab runner": "glrt-<w20>",
    "Square": "sq0atp-<w22>", "Databricks": "dapi<h32>", "Figma": "figd_<w40>", "Postman": "PMAK-<h59>",
    "Grafana": "glsa_<w41>", "Sentry": "sntryu_<h64>", "New Relic": "NRAK-<u27>", "PlanetScale": "pscale_tkn_<w43>",
    "Supabase": "sbp_<h40>", "Doppler": "dp.pt.<w43>", "RubyGems": "rubygems_<h48>", "Heroku": "HRKU-AA<w58>",
    "Netlify": "nfp_<w36>", "Fly": "fo1_<w43>", "Atlassian": "ATATT3xFfGF0<w180>", "Bitbucket": "ATBB<w32>",
    "Shopify": "shpss_<h32>", "age": "AGE-SECRET-KEY-1<u58>", "Pinecone": "pcsk_<w60>", "LangSmith": "lsv2_pt_<h32>",
    "Tavily": "tvly-<w32>", "GitHub, fine": "github_pat_<w70>", "GitLab": "glpat-<w20>", "Slack": "xoxb-<w40>",
    "Hugging Face": "hf_<a34>", "Stripe": "sk_test_<w24>", "Docker": "dckr_pat_<w27>", "Groq": "gsk_<w52>",
    "PyPI": "pypi-AgEIcHlwaS5vcmc<w120>",
}  # fmt: skip

KINDS = {
    "OpenAI": "Incorrect API key provided: «sk-proj-<w48>».",
    "Anthropic": "using «sk-ant-api03-<w60>» for requests",
    "GitHub": "remote: https://«ghp_<w36>»@github.com/o/r.git",
    "Slack webhook": "POST https://hooks.slack.com/services/«T0AB/B0CD/<w24>»",
    "Google": "?q=1 key «AIza<w35>»",
    "AWS id": "aws_access_key_id = «AKIA<u16>»",
    "AWS secret": "aws_secret_access_key = «<b30>»",
    "JWT": "session «eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOjI0<w24>.<w43>» expired",
    "private key": f"wrote\n{_KEY.format('RSA PRIVATE KEY')}\nto id_rsa",
    "URL": "postgres://app:«<w12>»@db.internal:5432/app",
    "short URL": "redis://cache:«<w6>»@10.0.0.5:6379/0",
    "bearer": "> Authorization: Bearer «<w40>»",
    "basic": "> Authorization: Basic «<b24>»",
    "password": 'password="«<w6><p1><w6>»"',
    "password flag": "+ mysql --password «<w16>» --host db",
    "npm": "//registry.example.com/:_authToken=«npm_<w36>»",
    "Twilio": "twilio: key «SK<h32>»",
    "SendGrid": "smtp: apikey «SG.<w22>.<w43>»",
    "Azure storage": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=«<b64>»;End",
    "Azure bus": "SharedAccessKeyName=root;SharedAccessKey=«<b32>»",
    "signed URL": "GET https://a.blob.core.windows.net/c/f?sv=2024&sig=«<w44>»&se=1",
    "Telegram": "bot «1<d9>:AA<w33>» started",
    "client secret": '"client_secret": "«<w32>»"',
    "environment": "export DEPLOY_TOKEN=«<h40>»",
    "cookie": "Set-Cookie: session=«<w32>»; HttpOnly",
    "netrc": "machine h login me password «<w14>»",
    "Docker file": '{"auths": {"r.example.com": {"auth": "«<b24>»"}}}',
    "Docker flag": "+ docker login -u me -p «<w6><p1><w6>» r.example.com",
    "curl": "+ curl -sS -u admin:«<w6><p1><w6>» https://api.example.com",
    "mysql": "+ mysql -u root -p«<w6><p1><w6>» app",
    "token in a URL": "fatal: https://«<w40>»@git.example.com/o/r.git not found",
    "second cookie": "Cookie: theme=dark; sid=«<w32>»",
    "AWS session": '{"SessionToken": "«<b120>»"}',
    "PGP": _KEY.format("PGP PRIVATE KEY BLOCK"),
    "kubeconfig": "    client-key-data: «<b90>»",
    "Discord": "bot ready with «M<w24>.<w6>.<w30>»",
    "Discord webhook": "POST https://discord.com/api/webhooks/761125651788002158/«<w68>»",
    **{name: f"{name.lower()} says «{secret}»" for name, secret in _OTHERS.items()},
}
"""A line with a secret of each kind between `«` and `»`; `<w48>` stands for 48 random letters of this kind."""


class Planted(NamedTuple):
    text: str
    secrets: tuple[str, ...]


def texts() -> list[str]:
    file = Path(__file__).parent / "data" / "help_and_logs.json"
    return [one["text"] for one in json.loads(file.read_text("utf-8"))]


def planted() -> list[Planted]:
    """The texts with 500 secrets among their lines, each kind about as often as the others."""
    chance, found = random.Random(24), [(text.splitlines(), list[str]()) for text in texts()]
    kinds = list(KINDS.values())
    for number in range(500):
        lines, secrets = found[number % len(found)]
        before, secret, after = re.split("[«»]", _filled(chance, kinds[number % len(kinds)]))
        lines.insert(chance.randrange(len(lines) + 1), before + secret + after)
        secrets.append(secret)
    return [Planted("\n".join(lines), tuple(secrets)) for lines, secrets in found]


def harmless() -> list[str]:
    """The texts with random-looking data that is not a secret: git digests, UUIDs, a picture in base64."""
    chance = random.Random(24)
    picture = base64.b64encode(b"\x89PNG\r\n" + chance.randbytes(600)).decode()
    data = "commit <h40>\nindex <h7>..<h7>\nsha256:<h64>\nid <h8>-<h4>-4<h3>-8<h3>-<h12>"
    return [f"{text}\n{_filled(chance, data)}\n![](data:image/png;base64,{picture})" for text in texts()]


def _filled(chance: random.Random, form: str) -> str:
    def some(found: re.Match[str]) -> str:
        """Random letters, or as many random bytes in base64; most end with a digit and a letter."""
        kind, length = found[1], int(found[2])
        if kind == "b":
            return base64.b64encode(chance.randbytes(length - 1) + b"7").decode()
        end = "7a" if kind in "wWah" and length > 4 else ""
        return "".join(chance.choices(_LETTERS[kind], k=length - len(end))) + end

    return re.sub(r"<(\w)(\d+)>", some, form)
