"""`testronaut-llm cache`: statistics, clear, export and import."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pytest
import yaml
from manager_kit import KEY, Api, Run, model

from testronaut_llm import LLMManager
from testronaut_llm.cache.answer_cache import default_folder
from testronaut_llm.cache.entry import vector_of
from testronaut_llm.cache.files import CacheFiles
from testronaut_llm.config.sections import CacheConfig


@pytest.fixture
def a(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Api]) -> Api:
    made = make("a", faults.good("kept"))
    row = f'm: {{model: openai/gpt-4o-mini, api_base: "{made.url}/v1"}}'
    text = f"version: 1\nmodels: {{{row}}}\ntasks: {{t: {{models: m}}, u: {{models: m}}}}\n"
    (tmp_path / "llm.yaml").write_text(text)
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(tmp_path / "llm.yaml"))
    return made


def test_run_answers_from_the_cache(run: Run, a: Api) -> None:
    """The second run sends nothing and counts a saving; the cache modes and their short form work."""
    assert run("run", "t", "hi")[1] == "kept\n"
    assert run("run", "t", "hi", "--cache", "only")[1] == "kept\n"
    assert len(a.asked) == 1
    found = json.loads(run("cache", "stats", "--json")[1])
    assert (found["hits"], found["saved"] > "$0") == (1, True)
    assert run("run", "t", "ho", "--cache", "only")[0] == 1
    assert run("run", "t", "hi", "--no-cache")[0] == 0
    assert run("run", "t", "hi", "--cache", "never")[0] == 2
    assert len(a.asked) == 2


def test_stats_clear_export_and_import(run: Run, a: Api, tmp_path: Path) -> None:
    """Entries are counted by task, deleted by task or age, and restored from the exported file."""
    assert json.loads(run("cache", "stats", "--json")[1])["answers"] == 0
    assert run("cache", "clear", "--yes")[0] == 0
    run("run", "t", "one")
    run("run", "u", "two")
    found = json.loads(run("cache", "stats", "--json")[1])
    assert (found["answers"], found["tasks"]) == (2, {"t": 1, "u": 1})
    assert found["bytes"] > 0
    assert "tasks\tt 1, u 1\n" in run("cache", "stats")[1]
    file = tmp_path / "answers.jsonl"
    assert run("cache", "export", str(file))[0] == 0
    assert len(file.read_text().splitlines()) == 2
    assert KEY not in file.read_text()
    assert "deleted: 0" in run("cache", "clear", "--older-than", "1h", "--yes")[2]
    assert "deleted: 1" in run("cache", "clear", "--task", "u", "--yes")[2]
    assert "deleted: 1" in run("cache", "clear", "--older-than", "0s", "--yes")[2]
    assert run("run", "t", "one", "--cache", "only")[0] == 1
    assert "imported" in run("cache", "import", str(file))[2]
    assert run("run", "t", "one", "--cache", "only")[1] == "kept\n"
    assert len(a.asked) == 2


@pytest.mark.parametrize(
    ("line", "fault"),
    [("{", "not JSON"), ("[]", "expected a JSON object"), ('{"key": "../x"}', "64 hex digits"), ('{"format": 9}', "64"),
     (json.dumps({"key": "a" * 64, "format": 9}), "export it again"),
     (json.dumps({"key": "a" * 64, "format": 1, "task": "t", "value": 1}), "`value`, an object"),
     (json.dumps({"key": "a" * 64, "format": 1, "task": "t", "value": {"text": 5}}), "not an answer"),
     (json.dumps({"key": "a" * 64, "format": 1, "task": "t", "value": {"vector": "?"}}), "not a vector"),
     (json.dumps({"key": "digest:" + "a" * 64, "format": 1, "task": None, "value": {}}), "expected a digest"),
     (json.dumps({"key": ["a" * 64], "format": 1}), "64 hex digits"),
     ("[" * 100_000, "not JSON")],
)  # fmt: skip
def test_a_wrong_file_is_not_imported(run: Run, a: Api, tmp_path: Path, line: str, fault: str) -> None:
    """One wrong line is named, and nothing of the file is imported."""
    run("run", "t", "one")
    file = tmp_path / "answers.jsonl"
    run("cache", "export", str(file))
    file.write_text(f"{file.read_text()}\n{line}\n{line}\n")
    run("cache", "clear", "--yes")
    code, _, err = run("cache", "import", str(file))
    assert code == 2
    assert f"{file}:3" in err
    assert f"{file}:4" in err
    assert fault in err
    assert json.loads(run("cache", "stats", "--json")[1])["answers"] == 0
    assert run("cache", "import", str(tmp_path / "none"))[0] == 2
    assert run("cache", "export", str(tmp_path / "no" / "folder"))[0] == 2


def test_an_export_is_read_by_its_lines(run: Run, a: Api, tmp_path: Path) -> None:
    """Unicode line separators are kept inside an answer, and lines may end in CR LF."""
    text, file = "one\x85two\u2028three\u2029four\x0bfive\x1csix", tmp_path / "answers.jsonl"
    a.plan(faults.good(text))
    run("run", "t", "hi")
    run("cache", "export", str(file))
    assert "\u2028" in file.read_text("utf-8")
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    run("cache", "clear", "--yes")
    assert run("cache", "import", str(file))[0] == 0
    code, out, _ = run("run", "t", "hi", "--json", "--cache", "only")
    assert (code, json.loads(out)["text"]) == (0, text)


def test_clear_asks_first(run: Run, a: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is deleted without a yes; an invalid age is an error."""
    run("run", "t", "one")
    monkeypatch.setattr("typer.confirm", lambda *_, **__: sys.exit(1))
    assert run("cache", "clear")[0] == 1
    assert json.loads(run("cache", "stats", "--json")[1])["answers"] == 1
    code, _, err = run("cache", "clear", "--older-than", "long", "--yes")
    assert code == 2
    assert "such as 30d" in err


def test_vectors_and_the_digest_of_a_local_model_travel_along(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Api]
) -> None:
    """After an import, answers of a local model are found without its server, and so are vectors."""
    row = model("ollama", make("o", faults.good("local")))
    (tmp_path / "llm.yaml").write_text(yaml.safe_dump({"models": {"o": row}, "tasks": {"t": {"models": ["o"]}}}))
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(tmp_path / "llm.yaml"))
    run("run", "t", "hi")
    with LLMManager() as llm:
        vectors = llm.embed("t", ["x", "y"]).vectors
    file = tmp_path / "answers.jsonl"
    assert "4" in run("cache", "export", str(file), "--task", "t")[2]
    make("o", faults.error("server_error"))
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(tmp_path / "elsewhere"))
    assert run("cache", "import", str(file))[0] == 0
    assert run("run", "t", "hi", "--cache", "only")[1] == "local\n"
    with LLMManager() as llm:
        assert llm.embed("t", ["y", "x"], cache="only").vectors == vectors[::-1]
    run("cache", "export", str(tmp_path / "again.jsonl"))
    assert (tmp_path / "again.jsonl").read_text() == file.read_text()


def test_an_export_holds_no_prompt_and_no_secret(run: Run, a: Api, tmp_path: Path) -> None:
    """Entries that look like a secret are skipped and listed with the secret masked; --force writes them."""
    run("run", "t", "the plan of the prompt")
    a.plan(faults.good("Use --password=changeme1234 here."))
    run("run", "t", "how do I log in?")
    file = tmp_path / "f.jsonl"
    err = run("cache", "export", str(file))[2]
    assert "hold a secret: 1 (--force writes them)" in err
    assert re.search(r"\n  [0-9a-f]{12}, task t, 20\d\d-.* UTC: Use --password=\[redacted\]", err)
    assert "changeme1234" not in err + file.read_text()
    assert "plan" not in file.read_text()
    assert "left out" not in run("cache", "export", str(file), "--force")[2]
    assert "changeme1234" in file.read_text()


def test_what_has_expired_is_not_counted_and_a_broken_store_is_an_error(run: Run, a: Api, tmp_path: Path) -> None:
    """Expired answers do not count; a broken store is an error with its fix."""
    run("run", "t", "one")
    store = CacheFiles(CacheConfig())
    connection = sqlite3.connect(store.folder / "cache.db", isolation_level=None)
    connection.execute("UPDATE Cache SET expire_time = 1")
    connection.close()
    assert json.loads(run("cache", "stats", "--json")[1])["answers"] == 0
    assert store.export(tmp_path / "f.jsonl") == (0, [])
    (store.folder / "cache.db").write_bytes(b"This is no database. " * 400)
    code, _, err = run("cache", "stats")
    assert (code, "cannot be used" in err, f"mv {store.folder} " in err) == (2, True, True)


HUGE = "1" + "0" * 30
HOSTILE = [
    *[("cost", cost) for cost in ("NaN", "-Infinity", "-1000000", "1e40", "a lot", 1.5, True)],
    *[("usage.prompt_tokens", int(HUGE)), ("usage.reasoning_tokens", -1), ("usage.reasoning_tokens", "5")],
    *[("usage.estimated", 1), ("usage", None), ("usage", {"prompt_tokens": 1})],
    *[("cost_source", 5), ("finish_reason", None), ("text", None)],
]


@pytest.mark.parametrize(("field", "wrong"), HOSTILE, ids=lambda value: f"{value!r:.30}")
def test_an_impossible_row_is_refused_and_is_a_miss(run: Run, a: Api, tmp_path: Path, field: str, wrong: Any) -> None:
    """It is not imported; if it is in the store, it is a miss, and sums and exports work."""
    file = tmp_path / "answers.jsonl"
    run("run", "t", "one")
    run("cache", "export", str(file))
    row = json.loads(file.read_text())
    place, _, name = field.rpartition(".")
    (row["value"][place] if place else row["value"])[name] = wrong
    file.write_text(json.dumps(row))
    code, _, err = run("cache", "import", str(file))
    assert (code, "not an answer" in err) == (2, True)
    text = json.dumps(row["value"])
    stored = hashlib.sha256(f"{row['key']}\n{text}".encode()).hexdigest()[:16] + text
    rows = sqlite3.connect(default_folder() / "cache.db", isolation_level=None)
    assert rows.execute("UPDATE Cache SET value = ?", (stored,)).rowcount == 1
    rows.close()
    with LLMManager() as llm:
        answer = llm.complete("t", "one")
        assert (answer.text, answer.cached) == ("kept", False)
        assert llm.session.saved == 0
        assert llm.spend().total.hits == 0
    assert len(a.asked) == 2


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("cost", "NaN"), ("tokens", int(HUGE)), ("tokens", "5"),
     ("vector", base64.b64encode(struct.pack("<d", float("nan"))).decode())],
)  # fmt: skip
def test_an_impossible_vector_is_none(field: str, wrong: Any) -> None:
    """An invalid stored vector is not imported, and is a miss."""
    good = {"vector": base64.b64encode(struct.pack("<d", 1.0)).decode(), "tokens": 1, "cost": "0.1"}
    assert vector_of(good).vector == (1.0,)
    with pytest.raises(ValueError, match="not a vector"):
        vector_of({**good, field: wrong})
