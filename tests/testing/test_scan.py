"""The scan finds what must not be committed, and only that; and our own recordings are clean."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from testronaut_llm.testing.scan import AllowedName, Finding, read_allow_list, scan_folder, scan_text

ROOT = Path(__file__).parents[2]
ALLOWED = Path(__file__).parents[1] / "support" / "allowed_names.yaml"

# Put together here, so that no tool takes this file for a leak.
_LETTERS = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7"
PLANTED = {
    "secret": [
        f"sk-{_LETTERS}",
        f"sk-ant-api03-{_LETTERS}",
        f"AIza{_LETTERS}{_LETTERS[:8]}",
        f"gsk_{_LETTERS}",
        f"hf_{_LETTERS}",
        f"xai-{_LETTERS}",
        f"AKIA{_LETTERS.upper()[:16]}",
        f"ghp_{_LETTERS}",
        f"github_pat_{_LETTERS}",
        f"xoxb-{_LETTERS}",
        f"eyJhbGciOiJI.eyJzdWIiOiIx.{_LETTERS}",
        f"Bearer {_LETTERS}",
        f"Basic {_LETTERS}==",
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        f"/v1beta/models?key={_LETTERS}",
        f"blob?sv=1&sig={_LETTERS}",
    ],
    "cookie": ["set-cookie: a=b", '"cookie": "a=b"', "Set-Cookie=x"],
    "account id": [f"org-{_LETTERS}", f"proj_{_LETTERS}"],
    "e-mail address": ["jane.doe+test@example.co"],
    "host name": [
        "https://api.acme.example/v1",
        "db1.acme.internal",
        "acme.openai.azure.com",
        "10.1.2.3",
        "192.168.0.7",
    ],
    "folder": ["/home/jane/models", "/Users/jane", "/tmp/build-7/model.gguf", "C:\\Users\\jane"],
}
CLEAN = [
    "http://127.0.0.1/v1/chat/completions",
    "http://127.0.0.1:11434/api/chat",
    "http://localhost:8080/v1",
    "http://[::1]:1/",
    "chatcmpl-Ax7fQ2mN5pQ8sT1vW4yZ7aB3dE6gH9jK",
    "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "the risk-adjusted organisation of a task-oriented file.txt in version 1.2.3",
    "smollm2:135m, registry of proj_files and org-charts",
    "Authorization: Bearer REDACTED",
    "?api-key=REDACTED&api-version=2024-10-21",
    "Basic principles of bearer authentication",
]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in PLANTED.items() for text in texts])
def test_a_planted_leak_is_found(kind: str, text: str) -> None:
    """Each shape of leak is found in the middle of a line, with its kind and its line."""
    found = scan_text(f"first line\nbefore {text} after\n")
    assert (kind, 2) in {(one.kind, one.line) for one in found}


@pytest.mark.parametrize("text", CLEAN)
def test_ordinary_text_is_clean(text: str) -> None:
    """What real recordings are full of raises no alarm."""
    assert scan_text(text) == []


def test_a_leak_inside_base64_is_found() -> None:
    """A body that is kept in base64 is looked into."""
    body = base64.b64encode(b"\xff key sk-" + _LETTERS.encode()).decode()
    assert [one.kind for one in scan_text(f"response:\n  base64: {body}\n")] == ["secret"]


@pytest.mark.parametrize(
    "form", ["p@ss/word-77", "p%40ss%2Fword-77", base64.b64encode(b"p@ss/word-77").decode(), b"p@ss/word-77".hex()]
)
def test_the_value_of_a_key_variable_is_found(form: str) -> None:
    """A key of the environment is found whatever its shape, plain, URL-quoted or in base64, and is not repeated."""
    [found] = scan_text(f"a\nb {form}\n", environ={"ACME_API_KEY": "p@ss/word-77", "PATH": "/bin", "X_TOKEN": "b"})
    assert (found.kind, found.text, found.line) == ("value of a variable", "ACME_API_KEY", 2)


def test_a_secret_is_not_repeated_in_the_report() -> None:
    """The report of a leak is no leak."""
    assert _LETTERS not in str(scan_text(f"sk-{_LETTERS}")[0])
    assert "acme.internal" in str(scan_text("acme.internal")[0])


def test_a_name_can_be_allowed_and_a_key_cannot() -> None:
    """The allow-list covers names that a server's words contain, never keys."""
    allowed = [
        AllowedName(name="ollama.com", reason="in the words of an error"),
        AllowedName(name=f"sk-{_LETTERS}", reason="no"),
    ]
    assert [one.kind for one in scan_text(f"see ollama.com, sk-{_LETTERS}", allowed=allowed)] == ["secret"]


def test_a_folder_is_searched_and_stale_allowances_are_findings(tmp_path: Path) -> None:
    """Every file below counts, each finding says where, and an allowance that nothing needs is reported."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.json").write_text("ok\nhttps://acme.example ollama.com\n")
    allowed = [AllowedName(name="ollama.com", reason="r"), AllowedName(name="gone.com", reason="r")]
    assert [str(one).removeprefix(str(tmp_path)) for one in scan_folder(tmp_path, allowed=allowed)] == [
        "/deep/a.json:2: host name: acme.example",
        ":0: allowance that nothing needs: gone.com",
    ]


def test_a_header_outside_the_allow_list_is_found(tmp_path: Path) -> None:
    """A cassette with a header that ours never keep was not made by our recorder."""
    (tmp_path / "a.yaml").write_text(
        "interactions:\n- request: {headers: {x-stainless-os: Linux}}\n  response: {headers: {openai-version: a}}\n"
    )
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    assert {one.text for one in scan_folder(tmp_path)} == {"x-stainless-os", "openai-version"}


def test_our_recordings_are_clean() -> None:
    """Nothing private is in the cassettes and recorded data of this repository."""
    allowed = read_allow_list(ALLOWED)
    found: list[Finding] = []
    unused: set[str] = {entry.name for entry in allowed}
    for folder in (ROOT / "cassettes", ROOT / "tests" / "support" / "data"):
        here = scan_folder(folder, allowed=allowed, environ=os.environ)
        unused &= {one.text for one in here if one.kind.startswith("allowance")}
        found += [one for one in here if not one.kind.startswith("allowance")]
    assert found == []
    assert unused == set()
