"""`models bench`: the measured speeds, the history file, and the seconds in a route."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_local import TINY, stored
from manager_kit import Run, config, manager
from ollama_kit import UNLOADED, Ollama

from testronaut_llm import LLMManager
from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import verify as module
from testronaut_llm.local.model_store import ModelStore, Speed, SpeedHistory
from testronaut_llm.local.verify import alone, bench
from testronaut_llm.records import Usage

NAME = f"embedded/{TINY}"


def speed(model: str = "embedded/a", **fields: Any) -> Speed:
    made = {"at": "2026-11-23T00:00:00+00:00", "load": 1.0, "first": 0.5, "prompt_tokens": 300}
    return Speed(model=model, **{**made, "prompt_rate": 100.0, "answer_rate": 10.0, **fields})


def row(model: str = "embedded/a", **fields: Any) -> ModelConfig:
    return ModelConfig(alias="m", model=model, **fields)


def measured(row: dict[str, Any], rounds: int = 2, told: Callable[[str], None] = lambda _: None) -> Speed:
    with LLMManager(config=alone(config({"m": row}, max_tokens=8000), "m")) as llm:
        return bench(llm, rounds=rounds, report=told)


@pytest.mark.usefixtures("home")
def test_an_embedded_model_is_measured() -> None:
    """The tiny model is loaded and asked twice a round, with real numbers."""
    told: list[str] = []
    found = measured({"model": NAME}, told=told.append)
    assert found.prompt_tokens > 300
    assert min(found.load or 0, found.first, found.prompt_rate, found.answer_rate) > 0
    assert [line.partition(": ")[2] for line in told] == ["loading", "round 1 of 2", "round 2 of 2"]


@pytest.mark.parametrize(
    ("begins", "ends", "rate"), [(0.1, 0.3, 500.0), (0.5, 0.5, 200.0)], ids=["usual", "the first token was late"]
)
def test_reading_and_writing_are_distinguished(
    ollama: Ollama, monkeypatch: pytest.MonkeyPatch, begins: float, ends: float, rate: float
) -> None:
    """The time to the first token is not counted as writing, even if it is nearly the total."""
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
    """Answers with one token, embedding models and missing models are errors with the reason."""
    ollama.answer, ollama.capabilities, ollama.has = lambda _: {"eval_count": 1}, [ability], has
    with pytest.raises(LocalModelError, match=said):
        measured(ollama.row(), rounds=1)


def test_the_last_speed_is_kept_of_each_model_and_server(tmp_path: Path) -> None:
    """A model on two servers has two rows. Other processes see them, without unknown fields and speeds of zero."""
    file = tmp_path / "deep" / "speeds.json"
    history, other = SpeedHistory(file), SpeedHistory(file)
    here, there = row("ollama/q"), row("ollama/q", api_base="http://127.0.0.1:9")
    assert other.latest(here) is None
    history.add(here, speed("ollama/q", first=3))
    history.add(there, speed("ollama/q", first=9))
    file.write_text(file.read_text().replace('"first"', '"memory": 5, "first"'))
    assert [other.latest(here), other.latest(there)] == [speed("ollama/q", first=3), speed("ollama/q", first=9)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(file.read_text().replace("10.0", "0"))  # a route divides by it
    assert other.latest(here) is None


def test_a_route_shows_the_seconds_and_prefers_the_faster_of_two_free_models(home: ModelStore, tiny_gguf: Path) -> None:
    """This needs measurements of both; until then the listed order holds."""
    stored(home, tiny_gguf, "fast")
    models = {"slow": {"model": NAME}, "fast": {"model": "embedded/fast"}}
    history = SpeedHistory()
    with manager(models, strategy="cheapest") as llm:
        history.add(llm.config.model("slow"), speed(NAME, answer_rate=1.0))
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
    """It prints a table or JSON; `models list` shows the speed, and `route` then has a column of seconds."""
    code, out, err = run("models", "bench", NAME, "--rounds", "2")
    assert (code, "tokens/s" in out, "round 2 of 2" in err) == (0, True, True)
    assert json.loads(run("models", "bench", NAME, "--rounds", "2", "--json")[1])["model"] == NAME
    (line,) = (one for one in run("models", "list")[1].splitlines() if one.startswith(f"{NAME}\t"))
    assert "tokens/s" in line
    (file := tmp_path / "llm.yaml").write_text(f"tasks:\n  default: {{models: [{NAME}, openai/gpt-4o-mini]}}\n")
    head, first, *_ = (row.split("\t") for row in run("route", "default", "hi", "-c", str(file))[1].splitlines())
    assert first[head.index("seconds")] not in ("?", "")
