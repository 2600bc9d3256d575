"""`models verify`: each problem is found by its check. `models bench`: the speeds, their history, and routes."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fixtures_local import TINY, stored
from manager_kit import Run, config, manager
from ollama_kit import UNLOADED, Ollama

from testronaut_llm import LLMManager
from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import ConfigError, LocalModelError
from testronaut_llm.local import verify as module
from testronaut_llm.local.model_store import ModelStore, Speed, SpeedHistory
from testronaut_llm.local.verify import alone, bench, verify
from testronaut_llm.records import Usage

EMBEDDED = f"embedded/{TINY}"
CHECKS = ("digest", "chat template", "loads", "answers", "stops", "obeys a schema", "reads the whole prompt",
          "repeats itself", "embeds")  # fmt: skip


def found(row: dict[str, Any]) -> dict[str, tuple[str, str]]:
    with LLMManager(config=alone(config({"mine": row}, system="never sent"), "mine")) as llm:
        return {one.check: (one.outcome, one.why) for one in verify(llm)}


def outcomes(findings: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {check: outcome for check, (outcome, _) in findings.items() if outcome != "pass"}


def good(body: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer of a correct model: the prompt was read in full, and a schema gives an object."""
    words = sum(len(one["content"].split()) for one in body["messages"])
    text = '{"word": "blue", "sure": true}' if body.get("format") else "Hello."
    return {"message": {"role": "assistant", "content": text}, "prompt_eval_count": 10 + words}


def test_a_sound_embedded_model_passes_and_the_command_fails_with_a_check(home: ModelStore, run: Run) -> None:
    code, out, _ = run("models", "verify", EMBEDDED, "--json")
    findings = {one["check"]: (one["outcome"], one["why"]) for one in json.loads(out)}
    assert (code, tuple(findings)) == (0, CHECKS)
    assert outcomes(findings) == {"embeds": "skipped"}
    assert "the server counts" in findings["reads the whole prompt"][1]
    home.path(TINY).write_bytes(b"GGUF")
    code, out, _ = run("models", "verify", EMBEDDED)
    assert (code, len(out.splitlines()), "FAIL     digest" in out) == (1, len(CHECKS), True)


@pytest.mark.parametrize(
    ("old", "new", "failing", "said"),
    [
        (b"\0" * 8, b"\0" * 7 + b"\1", ["digest"], f"models remove {EMBEDDED} && testronaut-llm models pull"),
        (b"tokenizer.chat_template", b"tokenizer.chat_templata", ["digest", "chat template"], "llama.cpp guesses one"),
    ],
    ids=["a flipped bit", "no chat template"],
)
def test_a_changed_file_is_found(home: ModelStore, old: bytes, new: bytes, failing: list[str], said: str) -> None:
    head, _, rest = home.path(TINY).read_bytes().rpartition(old)
    home.path(TINY).write_bytes(head + new + rest)
    findings = found({"model": EMBEDDED})
    assert {findings[check][0] for check in failing} == {"fail"}
    assert said in findings[failing[-1]][1]


def test_what_does_not_load_is_not_asked(home: ModelStore) -> None:
    home.path(TINY).write_bytes(home.path(TINY).read_bytes()[:100_000])
    findings = found({"model": EMBEDDED})
    assert findings["loads"][0] == findings["digest"][0] == "fail"
    assert {findings[check] for check in CHECKS[3:]} == {("skipped", "it does not load")}
    home.remove(TINY)
    findings = found({"model": EMBEDDED})
    assert f"testronaut-llm models pull {EMBEDDED}" in findings["digest"][1]
    assert findings["loads"][0] == "fail"


Answer = Callable[[dict[str, Any]], dict[str, Any]]

moods = count()


def but(**fields: Any) -> Answer:
    return lambda body: {**good(body), **fields}


def moody(body: dict[str, Any]) -> dict[str, Any]:
    return good(body) | ({} if body.get("format") else {"message": {"content": f"Answer {next(moods)}."}})


FAULTS: dict[str, tuple[Answer, dict[str, str], str]] = {
    "none": (good, {}, ""),
    "cuts prompts": (but(prompt_eval_count=12), {"reads the whole prompt": "fail"}, "raise `num_ctx`"),
    "never ends": (but(done_reason="length"), {"stops": "fail", "obeys a schema": "fail"}, ""),
    "says other things": (moody, {"repeats itself": "fail"}, "at temperature 0 it said"),
    "no schema": (but(message={"content": "No JSON from me."}), {"obeys a schema": "fail"}, "invalid_output"),
    "no counts": (but(prompt_eval_count=None), {"reads the whole prompt": "skipped"}, "does not report"),
    "says nothing": (but(message={"content": ""}), dict.fromkeys((*CHECKS[3:6], CHECKS[7]), "fail"), "bad_response"),
}


@pytest.mark.parametrize("num_ctx", [1024, 16384])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_model_is_found_by_its_check(ollama: Ollama, fault: str, num_ctx: int) -> None:
    ollama.answer, failing, said = FAULTS[fault]
    ollama.shown = 16384
    findings = found(ollama.row(num_ctx=num_ctx))
    assert outcomes(findings) == {**failing, "embeds": "skipped"}
    assert all(said in findings[check][1] for check in failing)
    assert all(body["options"]["temperature"] == 0 for body in ollama.bodies())
    assert "never sent" not in str(ollama.bodies())


def test_a_missing_template_and_another_digest_are_found(ollama: Ollama) -> None:
    """P40: without a template a model answers nonsense. The `digest:` of the row is compared."""
    ollama.answer, ollama.template = good, "{{.Prompt}}\n"
    findings = found(ollama.row(digest="0123456789"))
    assert findings["chat template"][0] == findings["digest"][0] == "fail"
    assert "testronaut-llm models pull ollama/hf.co/" in findings["chat template"][1]
    pinned = f"it has {ollama.digest[:12]}, and llm.yaml pins 0123456789; correct `digest:`, or pull it again"
    assert findings["digest"][1] == pinned
    ollama.template = ""
    findings = found(ollama.row(digest=ollama.digest))
    assert (findings["chat template"][0], findings["digest"][0]) == ("fail", "pass")


@pytest.mark.parametrize("tagged", [None, ["embedding"], ["completion"]])
def test_a_sound_embedding_model_of_ollama_passes(ollama: Ollama, tagged: list[str] | None) -> None:
    """It is loaded and asked by `/api/embed`; facts of `show` win over those of the list."""
    ollama.capabilities, ollama.tagged = ["embedding"], tagged
    findings = found(ollama.row(extra={"num_thread": 2}))
    assert outcomes(findings) == {check: "skipped" for check in CHECKS if check not in ("digest", "loads", "embeds")}
    assert {"/api/generate", "/api/chat"}.isdisjoint(ollama.paths)
    assert ollama.loads == [{"num_ctx": 6144, "num_thread": 2}]  # once, for the load and for the texts


def test_a_model_of_the_cloud_is_not_verified() -> None:
    with pytest.raises(ConfigError, match="expected a model that runs here"):
        alone(config({"mine": {"model": "openai/gpt-4o-mini"}}), "mine")


def speed(model: str = "embedded/a", **fields: Any) -> Speed:
    made = {"at": "2026-11-23T00:00:00+00:00", "load": 1.0, "first": 0.5, "prompt_tokens": 300}
    return Speed(model=model, **{**made, "prompt_rate": 100.0, "answer_rate": 10.0, **fields})


def measured(row: dict[str, Any]) -> Speed:
    with LLMManager(config=alone(config({"m": row}, max_tokens=8000), "m")) as llm:
        return bench(llm, rounds=2, report=str)


@pytest.mark.parametrize(
    ("begins", "ends", "rate"), [(0.1, 0.3, 500.0), (0.5, 0.5, 200.0)], ids=["usual", "the first token was late"]
)
def test_reading_and_writing_are_distinguished(
    ollama: Ollama, monkeypatch: pytest.MonkeyPatch, begins: float, ends: float, rate: float
) -> None:
    short, long = Usage(prompt_tokens=400, completion_tokens=1), Usage(prompt_tokens=400, completion_tokens=101)
    monkeypatch.setattr(module, "_asked", lambda _, __, most: (short, begins) if most == 1 else (long, ends))
    found = measured(ollama.row())
    assert (found.prompt_tokens, found.first, found.prompt_rate) == (400, begins, 400 / begins)
    assert found.answer_rate == pytest.approx(rate)


@pytest.mark.parametrize("said", [{"content": "Hello."}, {"content": "", "thinking": "Hm."}], ids=["text", "thoughts"])
def test_a_round_is_two_calls_of_a_model_that_was_out_of_memory(ollama: Ollama, said: dict[str, str]) -> None:
    """P44: one token and a longer answer, each with another prompt, loaded as calls load it."""

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        message, tokens = {"role": "assistant", **said}, body["options"]["num_predict"]
        return {"message": message, "prompt_eval_count": 400, "eval_count": tokens, "done_reason": "length"}

    ollama.answer, ollama.shown = answer, 32768
    row = ollama.row(extra={"num_thread": 2, "top_k": 1}, keep_alive="10m")
    assert measured(row).prompt_tokens == 400
    assert {1, 96} <= {body["options"]["num_predict"] for body in ollama.bodies()}
    assert len({body["messages"][0]["content"][:40] for body in ollama.bodies()}) == 5
    ollama.answer = lambda _: {}
    with manager({"m": row}, max_tokens=8000) as llm:
        llm.complete("t", "Say hello.")
    assert ollama.loads == [UNLOADED, {"num_ctx": 10240, "num_thread": 2}]  # as calls load it, and only once
    assert all(body["options"]["top_k"] == 1 and body["shift"] is False for body in ollama.bodies())


@pytest.mark.parametrize(
    ("ability", "has", "said"),
    [
        ("completion", True, "no answer long enough to time"),
        ("embedding", True, "embedding model"),
        ("completion", False, "testronaut-llm models pull ollama/small:1b"),
    ],
)
def test_what_cannot_be_measured_says_so(ollama: Ollama, ability: str, has: bool, said: str) -> None:
    ollama.answer, ollama.capabilities, ollama.has = lambda _: {"eval_count": 1}, [ability], has
    with pytest.raises(LocalModelError, match=said):
        measured(ollama.row())


def test_the_last_speed_is_kept_of_each_model_and_server(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "speeds.json"
    history, other = SpeedHistory(file), SpeedHistory(file)
    here = ModelConfig(alias="m", model="ollama/q")
    there = here.model_copy(update={"api_base": "http://127.0.0.1:9"})
    assert other.latest(here) is None
    history.add(here, speed("ollama/q", first=3))
    history.add(there, speed("ollama/q", first=9))
    file.write_text(file.read_text().replace('"first"', '"memory": 5, "first"'))
    assert [other.latest(here), other.latest(there)] == [speed("ollama/q", first=3), speed("ollama/q", first=9)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(file.read_text().replace("10.0", "0"))  # a route divides by it
    assert other.latest(here) is None


def test_a_route_shows_the_seconds_and_prefers_the_faster_of_two_free_models(home: ModelStore, tiny_gguf: Path) -> None:
    stored(home, tiny_gguf, "fast")
    models = {"slow": {"model": EMBEDDED}, "fast": {"model": "embedded/fast"}}
    history = SpeedHistory()
    with manager(models, strategy="cheapest") as llm:
        history.add(llm.config.model("slow"), speed(EMBEDDED, answer_rate=1.0))
        first = llm.route("t", "hi there").candidates
        assert [one.alias for one in first] == ["slow", "fast"]
        history.add(llm.config.model("fast"), speed("embedded/fast", answer_rate=100.0))
        fast, slow = llm.route("t", "hi there").candidates
    assert (fast.alias, slow.alias) == ("fast", "slow")
    assert first[1].est_seconds is None
    expected = (fast.est_tokens or 0) / 100 + (fast.est_completion_tokens or 0) / 100
    assert fast.est_seconds == pytest.approx(expected)
    assert "free, about" in fast.reason


@pytest.mark.usefixtures("home")
def test_the_command_measures_keeps_and_shows(run: Run, tmp_path: Path) -> None:
    code, out, err = run("models", "bench", EMBEDDED, "--rounds", "2")
    assert (code, "tokens/s" in out, "round 2 of 2" in err) == (0, True, True)
    found = json.loads(run("models", "bench", EMBEDDED, "--rounds", "2", "--json")[1])
    assert (found["model"], found["prompt_tokens"] > 300) == (EMBEDDED, True)
    assert min(found[name] for name in ("load", "first", "prompt_rate", "answer_rate")) > 0
    (line,) = (one for one in run("models", "list")[1].splitlines() if one.startswith(f"{EMBEDDED}\t"))
    assert "tokens/s" in line
    (file := tmp_path / "llm.yaml").write_text(f"tasks:\n  default: {{models: [{EMBEDDED}, openai/gpt-4o-mini]}}\n")
    head, first, *_ = (row.split("\t") for row in run("route", "default", "hi", "-c", str(file))[1].splitlines())
    assert first[head.index("seconds")] not in ("?", "")
