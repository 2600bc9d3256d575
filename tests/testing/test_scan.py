"""The scan finds only what must not be committed, and our own recordings pass it."""

from __future__ import annotations

import base64
from pathlib import Path

from recordings_scan import allowed_names, private_names, scanned
from source_tree import ROOT

from testronaut_llm.testing.cassette_format import leaks

# Put together here, so that no tool takes this file for a leak.
_LETTERS = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7"
PLANTED = {
    "secret": [
        f"sk-{_LETTERS}", f"sk-ant-api03-{_LETTERS}", f"AIza{_LETTERS}{_LETTERS[:8]}", f"gsk_{_LETTERS}",
        f"hf_{_LETTERS}", f"xai-{_LETTERS}", f"AKIA{_LETTERS.upper()[:16]}", f"ghp_{_LETTERS}",
        f"github_pat_{_LETTERS}", f"xoxb-{_LETTERS}", f"eyJhbGciOiJI.eyJzdWIiOiIx.{_LETTERS}",
        f"Bearer {_LETTERS}", f"Basic {_LETTERS}==", "-----BEGIN RSA " + "PRIVATE KEY-----",
        f"/v1beta/models?key={_LETTERS}", f"blob?sv=1&sig={_LETTERS}",
    ],
    "cookie": ["set-cookie: a=b", '"cookie": "a=b"', "Set-Cookie=x"],
    "account id": [f"org-{_LETTERS}", f"proj_{_LETTERS}"],
}  # fmt: skip
NAMES = {
    "e-mail address": ["jane.doe+test@example.co"],
    "host name": ["https://api.acme.example/v1", "db1.acme.internal", "acme.openai.azure.com", "10.1.2.3"],
    "folder": ["/home/jane/models", "/Users/jane", "/tmp/build-7/model.gguf", "C:\\Users\\jane"],
}
CLEAN = [
    "http://127.0.0.1/v1/chat/completions", "http://127.0.0.1:11434/api/chat", "http://localhost:8080/v1",
    "http://[::1]:1/", "chatcmpl-Ax7fQ2mN5pQ8sT1vW4yZ7aB3dE6gH9jK",
    "smollm2:135m, registry of proj_files and org-charts",
    "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "the risk-adjusted organisation of a task-oriented file.txt in version 1.2.3",
    "Authorization: Bearer REDACTED", "?api-key=REDACTED&api-version=2024-10-21",
    "Basic principles of bearer authentication",
]  # fmt: skip


def test_a_planted_leak_is_found_and_ordinary_text_is_clean() -> None:
    for kind, text in ((kind, text) for kind, texts in PLANTED.items() for text in texts):
        found = leaks(f"first line\nbefore {text} after\n", {})
        assert any(one.startswith(f"line 2: {kind}: ") for one in found), text
    for kind, text in ((kind, text) for kind, texts in NAMES.items() for text in texts):
        assert kind in dict(private_names(f"before {text} after")), text
    assert [text for text in CLEAN if leaks(text, {}) or private_names(text)] == []
    body = base64.b64encode(b"\xff key sk-" + _LETTERS.encode()).decode()
    assert leaks(f"response:\n  base64: {body}\n", {}) == ["line 2: secret: sk-aB3...(30 characters)"]


def test_the_value_of_a_key_variable_is_found_and_not_shown() -> None:
    environ = {"ACME_API_KEY": "p@ss/word-77", "PATH": "/bin", "X_TOKEN": "b"}
    for form in ("p@ss/word-77", "p%40ss%2Fword-77", base64.b64encode(b"p@ss/word-77").decode()):
        assert leaks(f"a\nb {form}\n", environ) == ["line 2: value of a variable: ACME_API_KEY"]


def test_our_recordings_are_clean(tmp_path: Path) -> None:
    """This repository's recordings hold nothing private; allowances cover names, never keys, and are needed."""
    (tmp_path / "a.json").write_text(f"ok\nhttps://acme.example ollama.com sk-{_LETTERS}\n")
    headers = "interactions:\n- request: {headers: {x-stainless-os: a}}\n  response: {headers: {openai-version: a}}\n"
    (tmp_path / "b.yaml").write_text(headers)
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    assert scanned(tmp_path, allowed={"ollama.com", "gone.com", f"sk-{_LETTERS}"}) == [
        "a.json: line 2: secret: sk-aB3...(30 characters)",
        "a.json: host name: acme.example",
        "b.yaml: header: x-stainless-os",
        "b.yaml: header: openai-version",
        "allowed, but nowhere: gone.com",
        f"allowed, but nowhere: sk-{_LETTERS}",
    ]
    assert scanned(ROOT / "cassettes", ROOT / "tests" / "support" / "data", allowed=allowed_names()) == []
