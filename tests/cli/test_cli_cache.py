"""`testronaut-llm cache`: statistics, clear, export and import."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import sys
from pathlib import Path
from typing import Any

import faults
import pytest
from manager_kit import KEY, Api, Make, Run, model

from testronaut_llm import LLMManager
from testronaut_llm.cache.entry import default_folder

FILE = "answers.jsonl"


@pytest.fixture
def a(project: Make) -> Api:
    """A server that answers `kept`, and two tasks that ask it."""
    return project(faults.good("kept"), tasks={"u": {"models": ["a"]}})


def stored(run: Run) -> int:
    return int(json.loads(run("cache", "stats", "--json")[1])["answers"])


def change_store(statement: str, *values: str) -> None:
    rows = sqlite3.connect(default_folder() / "cache.db", isolation_level=None)
    assert rows.execute(statement, values).rowcount == 1
    rows.close()


def test_stats_clear_export_and_import(run: Run, a: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stored(run) == 0
    assert run("cache", "clear", "--yes")[0] == 0
    assert [run("run", *words)[1] for words in (("t", "one"), ("t", "one"), ("u", "two"))] == ["kept\n"] * 3
    found = json.loads(run("cache", "stats", "--json")[1])
    assert (found["answers"], found["tasks"], found["bytes"] > 0) == (2, {"t": 1, "u": 1}, True)
    assert (found["hits"], found["saved"]) == (1, "$0.000024")
    assert "tasks\tt 1, u 1\n" in run("cache", "stats")[1]
    assert run("cache", "export", FILE)[0] == 0
    assert len(Path(FILE).read_text().splitlines()) == 2
    assert KEY not in Path(FILE).read_text()
    monkeypatch.setattr("typer.confirm", lambda *_, **__: sys.exit(1))
    assert (run("cache", "clear")[0], stored(run)) == (1, 2)
    assert "deleted: 0" in run("cache", "clear", "--older-than", "1h", "--yes")[2]
    assert "deleted: 1" in run("cache", "clear", "--task", "u", "--yes")[2]
    assert "deleted: 1" in run("cache", "clear", "--older-than", "0s", "--yes")[2]
    assert run("run", "t", "one", "--cache", "only")[0] == 1
    assert "imported" in run("cache", "import", FILE)[2]
    assert run("run", "t", "one", "--cache", "only")[1] == "kept\n"
    assert len(a.asked) == 2


def line(**fields: Any) -> str:
    return json.dumps({"key": "a" * 64, "format": 1, "task": "t", "value": {}, **fields})


COUNTS = {"prompt_tokens": 1, "estimated": False}
ANSWER = {"text": "x", "response_model": "m", "request_id": None, "finish_reason": "stop", "dialect": "none"}
ANSWER |= {"usage": COUNTS, "cost": "0.1", "cost_source": None}
ONE, NAN = "AAAAAAAA8D8=", "AAAAAAAA+H8="  # in eight bytes
VECTOR = {"vector": ONE, "tokens": 1, "cost": "0.1"}
COSTS = ("NaN", "-Infinity", "-1000000", "1e40", "a lot", 1.5, True)
COUNTED = ({"reasoning_tokens": 10**30}, {"reasoning_tokens": -1}, {"reasoning_tokens": "5"}, {"estimated": 1})
NO_ANSWERS = [
    *({"cost": cost} for cost in COSTS),
    *({"usage": {**COUNTS, **counts}} for counts in COUNTED),
    *({"usage": None}, {"cost_source": 5}, {"finish_reason": None}, {"text": None}),
]
NO_VECTORS = ({"cost": "NaN"}, {"tokens": 10**30}, {"tokens": "5"}, {"vector": NAN}, {"vector": "?"})
WRONG_LINES = {
    "{": "not JSON",
    "[]": "expected a JSON object",
    "[" * 100_000: "not JSON",
    line(task="\ud83d"): "half a character",
    line(key="../x"): "64 hex digits",
    line(key=["a" * 64]): "64 hex digits",
    line(format=9): "export it again",
    line(value=1): "`value`, an object",
    line(key="digest:" + "a" * 64, task=None): "expected a digest",
    **{line(value={**ANSWER, **wrong}): "not an answer" for wrong in NO_ANSWERS},
    **{line(value={**VECTOR, **wrong}): "not a vector" for wrong in NO_VECTORS},
}


@pytest.mark.usefixtures("a")
def test_a_wrong_line_is_named_and_nothing_of_its_file_is_imported(run: Run) -> None:
    good = [line(value=ANSWER), line(key="b" * 64, value=VECTOR)]
    for wrong, problem in WRONG_LINES.items():
        Path(FILE).write_text("\n".join([*good, wrong]))
        code, _, err = run("cache", "import", FILE)
        assert (code, f"{FILE}:3: " in err, problem in err) == (2, True, True), (wrong[:200], err)
    assert stored(run) == 0
    Path(FILE).write_text("\n".join(good))
    assert run("cache", "import", FILE)[0] == 0
    assert stored(run) == 2
    assert run("cache", "import", "none")[0] == run("cache", "export", "no/folder")[0] == 2


def test_an_export_is_read_by_its_lines(run: Run, a: Api) -> None:
    text, file = "one\x85two\u2028three\u2029four\x0bfive\x1csix", Path(FILE)
    a.plan(faults.good(text))
    run("run", "t", "hi")
    run("cache", "export", FILE)
    assert "\u2028" in file.read_text("utf-8")
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    run("cache", "clear", "--yes")
    assert run("cache", "import", FILE)[0] == 0
    code, out, _ = run("run", "t", "hi", "--json", "--cache", "only")
    assert (code, json.loads(out)["text"]) == (0, text)


def test_vectors_and_the_digest_of_a_local_model_travel_along(
    run: Run, project: Make, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(models={"a": model("ollama", make("o", faults.good("local")))})
    run("run", "t", "hi")
    with LLMManager() as llm:
        vectors = llm.embed("t", ["x", "y"]).vectors
    assert "4" in run("cache", "export", FILE, "--task", "t")[2]
    make("o", faults.error("server_error"))
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(tmp_path / "elsewhere"))
    assert run("cache", "import", FILE)[0] == 0
    assert run("run", "t", "hi", "--cache", "only")[1] == "local\n"
    with LLMManager() as llm:
        assert llm.embed("t", ["y", "x"], cache="only").vectors == vectors[::-1]
    run("cache", "export", "again.jsonl")
    assert Path("again.jsonl").read_text() == Path(FILE).read_text()


def test_an_export_holds_no_prompt_and_no_secret(run: Run, a: Api) -> None:
    run("run", "t", "the plan of the prompt")
    a.plan(faults.good("Use --password=changeme1234 here."))
    run("run", "t", "how do I log in?")
    err = run("cache", "export", FILE)[2]
    assert "hold a secret: 1 (--force writes them)" in err
    assert re.search(r"\n  [0-9a-f]{12}, task t, 20\d\d-.* UTC: Use --password=\[redacted\]", err)
    assert "changeme1234" not in err + Path(FILE).read_text()
    assert "plan" not in Path(FILE).read_text()
    assert "left out" not in run("cache", "export", FILE, "--force")[2]
    assert "changeme1234" in Path(FILE).read_text()


@pytest.mark.usefixtures("a")
def test_what_has_expired_is_not_counted_and_a_broken_store_is_an_error(run: Run) -> None:
    run("run", "t", "one")
    change_store("UPDATE Cache SET expire_time = 1")
    assert stored(run) == 0
    run("cache", "export", FILE)
    assert Path(FILE).read_text() == ""
    (default_folder() / "cache.db").write_bytes(b"This is no database. " * 400)
    code, _, err = run("cache", "stats")
    assert (code, "cannot be used" in err, f"mv {default_folder()} " in err) == (2, True, True)


def test_an_impossible_row_of_the_store_is_a_miss(run: Run, a: Api) -> None:
    run("run", "t", "one")
    run("cache", "export", FILE)
    row = json.loads(Path(FILE).read_text())
    text = json.dumps({**row["value"], "cost": "NaN"})
    checksum = hashlib.sha256(f"{row['key']}\n{text}".encode()).hexdigest()[:16]
    change_store("UPDATE Cache SET value = ?", checksum + text)
    with LLMManager() as llm:
        answer = llm.complete("t", "one")
        assert (answer.text, answer.cached) == ("kept", False)
        assert (llm.session.saved, llm.spend().total.hits) == (0, 0)
    assert len(a.asked) == 2
