"""`run --batch`: one line for each answer, failures stop nothing, and a second run asks only what is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from io import FileIO
from pathlib import Path
from typing import Any

import faults
import pytest
from fault_server import Exchange
from fixtures_local import peak_memory
from manager_kit import Api, Make, Run

from testronaut_llm import ConfigError, RateLimitError
from testronaut_llm.cli import screen
from testronaut_llm.cli.batch import append, keyed, opened, run_batch
from testronaut_llm.testing.fake import FakeLLM

BATCH, OUT = ("--batch", "in.jsonl"), ("--out", "out.jsonl")


def echo(exchange: Exchange) -> None:
    """Answers with the prompt; the prompt `bad` is refused."""
    said = exchange.request.body["messages"][-1]["content"]
    (faults.error("bad_request") if said == "bad" else faults.good(f"re: {said}"))(exchange)


@pytest.fixture
def endpoint(project: Make) -> Api:
    gone = {"model": "ollama/qwen3:8b", "api_base": "http://127.0.0.1:9"}
    return project(echo, task={"cache": "off"}, models={"gone": gone}, budget={"per_day": 0.07})


@pytest.fixture
def batch(endpoint: Api, run: Run) -> Run:
    return lambda *words: run("run", "t", *BATCH, *OUT, *words)


def ask(*prompts: Any) -> None:
    Path("in.jsonl").write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts))


def answers() -> list[Any]:
    return sorted(map(json.loads, Path("out.jsonl").read_text().splitlines()), key=lambda row: row["line"])


def asked(endpoint: Api) -> list[str]:
    return sorted(body["messages"][-1]["content"] for body in endpoint.bodies)


def test_each_answer_is_a_line_with_the_number_of_its_prompt(batch: Run) -> None:
    ask(*(str(n) for n in range(20)), {"prompt": "object"}, [{"role": "user", "content": "messages"}])
    Path("in.jsonl").write_text("\n" + Path("in.jsonl").read_text())
    code, out, err = batch("--concurrency", "5")
    assert (code, out, "22 of 22 answered; $0.00053" in err) == (0, "", True), err
    assert [row["text"] for row in answers()] == [f"re: {n}" for n in (*range(20), "object", "messages")]
    assert [row["line"] for row in answers()] == list(range(2, 24))
    assert answers()[0]["cost"] == "0.000024"


def test_a_failure_stops_nothing_and_is_asked_again(endpoint: Api, batch: Run) -> None:
    ask("one", "bad", "three")
    code, _, err = batch()
    assert (code, "2 of 3 answered, 1 failed" in err) == (1, True)
    assert [row.get("text") or row["error"]["code"] for row in answers()] == ["re: one", "invalid_request", "re: three"]
    endpoint.plan(faults.good("now"))
    code, _, err = batch()
    assert (code, "2 of 3 are already answered" in err, asked(endpoint)) == (0, True, ["bad"])
    assert Path("out.jsonl").read_text().count("\n") == 4
    assert json.loads(Path("out.jsonl").read_text().splitlines()[-1])["text"] == "now"


def test_a_crash_in_the_middle_of_a_line_costs_that_line(endpoint: Api, batch: Run) -> None:
    ask(*(str(n) for n in range(10)))
    batch()
    lines = sorted(Path("out.jsonl").read_bytes().splitlines(keepends=True), key=lambda row: json.loads(row)["line"])
    Path("out.jsonl").write_bytes(b"".join(lines[5:8]) + lines[2][:40])
    endpoint.plan(echo)
    assert batch()[0] == 0
    assert asked(endpoint) == sorted("0123489")
    assert [row["text"] for row in answers()] == [f"re: {n}" for n in range(10)]


def test_what_was_changed_is_asked_again(endpoint: Api, batch: Run) -> None:
    ask("one", "two")
    batch()
    ask("one", "zwei", "three")
    endpoint.plan(echo)
    batch()
    assert asked(endpoint) == ["three", "zwei"]
    endpoint.plan(echo)
    batch("--max-tokens", "7", "--max-cost", "1")
    batch("--max-tokens", "7", "--cache", "use")
    assert len(endpoint.asked) == 3


def test_a_dry_run_says_what_it_would_cost(endpoint: Api, batch: Run, run: Run) -> None:
    ask(*(str(n) for n in range(300)))
    code, _, err = batch("--dry-run")
    assert (code, "$0.07 is left of budget.per_day, which is not enough\n" in err) == (0, True), err
    ask("one", "two", "two", "")
    code, out, err = run("run", "t", *BATCH, "--dry-run")
    assert (code, endpoint.asked, Path("out.jsonl").exists()) == (2, [], False)  # of the line that is no prompt
    assert [line.split("\t")[:3] for line in out.splitlines()] == [
        ["model", "asked first", "can be asked"],
        *([name, "3", "3"] for name in ("a", "route")),
    ]
    assert "4 prompts, 0 cached, 1 refused; $0.07 is left of budget.per_day\n" in err
    assert "refused: the prompt is empty; expected some text\n" in err
    batch()
    found = json.loads(batch("--dry-run", "--json", "--cache", "use")[1])
    assert (found["prompts"], found["refused"], found["route"]["prompts"], found["fits"]) == (1, 1, 0, False)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--model", "anthropic/no-key"), 2, "no model is ready"),
        (("--max-cost", "0"), 3, "no model fits the money"),
        (("--cache", "only"), 1, "no answer to this prompt"),
        (("--model", "gone"), 5, "no Ollama answers"),
    ],
)
def test_a_dry_run_exits_as_the_run(batch: Run, words: tuple[str, ...], code: int, message: str) -> None:
    ask("one")
    dry, _, err = batch(*words, "--dry-run")
    assert message in err
    assert (dry, batch(*words)[0]) == (code, code)


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_all_lines_that_hold_no_prompt_are_named(batch: Run, endpoint: Api, dry: tuple[str, ...]) -> None:
    Path("in.jsonl").write_bytes(b'"a"\n5\nnot json\n\xff\n{"x": 1}\n""\n"b"\n')
    code, out, err = batch(*dry)
    assert (code, out, endpoint.asked) == (2, "", [])
    for problem in ("2 holds no prompt", "3 is not JSON", "4: is not UTF-8 text", "5 holds no prompt"):
        assert f"in.jsonl:{problem}" in err
    Path("in.jsonl").write_text("nothing\n" * 1000)
    assert batch(*dry)[2].rstrip().endswith("and 990 more")


def test_the_exit_code_says_why_lines_failed(endpoint: Api, batch: Run) -> None:
    """If all failures have one reason, the code is that of the reason; the summary counts them by kind."""
    endpoint.plan(faults.reset_before_headers)
    ask("one", "two")
    assert batch()[0] == 5
    endpoint.plan(faults.error("content_filter"), faults.reset_before_headers)
    ask("one", "two", "")
    code, _, err = batch("--summary", "summary.md", "--concurrency", "1")
    assert code == 1, err
    table = Path("summary.md").read_text().partition("| failure | calls |\n| --- | ---: |\n")[2]
    kinds = ("connection_failed", "content_filter", "invalid_request")
    assert table.split("\n\n")[0].splitlines() == [f"| {kind} | 1 |" for kind in kinds]


BREAKS = """
from pathlib import Path
from testronaut_llm.cli.batch import run_batch
from testronaut_llm.testing.fake import FakeAnswer, FakeLLM

llm = FakeLLM(tasks=("t",))
llm.reply(lambda call: FakeAnswer(text="first", delay=0 if call.prompt < "0060" else 600))
run_batch(llm, "t", Path("in.jsonl"), Path("out.jsonl"), concurrency=8, given={})
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_broken_off_batch_sends_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    monkeypatch.chdir(tmp_path)
    ask(*(f"{n:04}" for n in range(200)))
    child = subprocess.Popen([sys.executable, "-c", BREAKS], stderr=subprocess.PIPE, text=True)
    while not Path("out.jsonl").exists() or Path("out.jsonl").read_bytes().count(b"\n") < 60:
        assert child.poll() is None
        threading.Event().wait(0.01)
    os.kill(child.pid, how)
    _, said = child.communicate(timeout=60)
    assert ("stopped with 60 of 200 answered" in said) is (how is signal.SIGINT)
    assert ("to continue" in said) is (how is signal.SIGINT)
    llm = FakeLLM(tasks=("t",))
    llm.reply("second")
    assert run_batch(llm, "t", Path("in.jsonl"), Path("out.jsonl"), concurrency=16, given={}) == {}
    assert sorted(call.prompt for call in llm.calls) == [f"{n:04}" for n in range(60, 200)]
    assert [(row["line"], row["text"]) for row in answers()] == [
        (n + 1, "first" if n < 60 else "second") for n in range(200)
    ]


def test_it_shows_how_far_it_is(batch: Run, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A terminal shows a bar, other outputs a line every few seconds: answered, failed, spent."""
    monkeypatch.setattr(screen, "EVERY_SECONDS", 0)
    ask(*(str(n) for n in range(5)), "bad")
    code, _, err = batch("--concurrency", "1")
    assert (code, "out.jsonl: 6 of 6 prompts, 1 failed, $0.00012" in err) == (1, True), err
    Path("out.jsonl").unlink()
    request.getfixturevalue("on_terminal")
    monkeypatch.setenv("COLUMNS", "200")
    err = batch("--concurrency", "1")[2]
    assert ("6/6" in err, "1 failed, $0.00012" in err) == (True, True), err


def test_memory_stays_flat(tmp_path: Path) -> None:
    prompts, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("".join(f'"{number} {"x" * 4000}"\n' for number in range(300)))
    with peak_memory() as peak, opened(out, 0) as file:
        for key, _ in keyed(prompts, ""):
            append(file, key, RateLimitError("x" * 4000))
    assert out.read_bytes().count(b"\n") == 300
    assert peak[0] < 300_000


def test_a_full_disk_ends_it_with_what_to_do() -> None:
    with FileIO("/dev/full", "a") as full, pytest.raises(ConfigError, match="cannot write /dev/full: No space left"):
        append(full, (1, "x"), RateLimitError("no"))
