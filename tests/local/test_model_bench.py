"""`models bench`: the measured speeds, the history file, and the seconds in a route."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_local import TINY, stored
from ollama_kit import UNLOADED, Ollama

from testronaut_llm import LLMManager
from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import verify as module
from testronaut_llm.local.model_store import ModelStore, Speed, SpeedHistory
from testronaut_llm.local.verify import alone, bench
from testronaut_llm.records import Usage

NAME = f"embedded/{TINY}"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def speed(model: str = "embedded/a", **fields: Any) -> Speed:
    made = {"at": "2026-11-23T00:00:00+00:00", "load": 1.0, "first": 0.5, "prompt_tokens": 300}
    return Speed(model=model, **{**made, "prompt_rate": 100.0, "answer_rate": 10.0, **fields})


def row(model: str = "embedded/a", **fields: Any) -> ModelConfig:
    return ModelConfig(alias="m", model=model, **fields)


def a_file(row: dict[str, Any], **task: Any) -> LLMConfig:
    return LLMConfig(models={"m": row}, tasks={"default": {"models": ["m"], **task}})  # type: ignore[dict-item]


def measured(config: LLMConfig, rounds: int = 2, told: Callable[[str], None] = lambda _: None) -> Speed:
    with LLMManager(config=alone(config, "m")) as llm:
        return bench(llm, rounds=rounds, report=told)


@pytest.mark.usefixtures("home")
def test_an_embedded_model_is_measured() -> None:
    """The tiny model is loaded and asked twice a round, with real numbers."""
    told: list[str] = []
    found = measured(a_file({"model": NAME}), told=told.append)
    assert found.prompt_tokens > 300
    assert min(found.load or 0, found.first, found.prompt_rate, found.answer_rate) > 0
    assert [line.partition(": ")[2] for line in told] == ["loading", "round 1 of 2", "round 2 of 2"]


@pytest.mark.parametrize(("begins", "rate"), [(0.1, 500.0), (0.5, 200.0)], ids=["usual", "the first token was late"])
def test_reading_and_writing_are_distinguished(
    ollama: Ollama, monkeypatch: pytest.MonkeyPatch, begins: float, rate: float
) -> None:
    """The time to the first token is not counted as writing, even if it is nearly the total."""

    def asked(_: LLMManager, number: int, most: int) -> tuple[Usage, float]:
        usage = Usage(prompt_tokens=400, completion_tokens=1 if most == 1 else 101)
        return usage, begins if most == 1 else 0.3 if begins == 0.1 else 0.5

    monkeypatch.setattr(module, "_asked", asked)
    found = measured(a_file(ollama.row()))
    assert (found.prompt_tokens, found.first, found.prompt_rate) == (400, begins, 400 / begins)
    assert found.answer_rate == pytest.approx(rate)


@pytest.mark.parametrize("said", [{"content": "Hello."}, {"content": "", "thinking": "Hm."}], ids=["text", "thoughts"])
def test_a_round_is_two_calls_of_a_model_that_was_out_of_memory(ollama: Ollama, said: dict[str, str]) -> None:
    """P44: one token and a longer answer, each with another prompt, loaded as calls load it."""

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        message, tokens = {"role": "assistant", **said}, body["options"]["num_predict"]
        return {"message": message, "prompt_eval_count": 400, "eval_count": tokens, "done_reason": "length"}

    ollama.answer, ollama.shown = answer, 32768
    config = a_file(ollama.row(extra={"num_thread": 2, "top_k": 1}, keep_alive="10m"), max_tokens=8000)
    assert measured(config).prompt_tokens == 400
    assert {1, 96} <= {body["options"]["num_predict"] for body in ollama.bodies()}
    assert len({body["messages"][0]["content"][:40] for body in ollama.bodies()}) == 5
    ollama.answer = lambda _: {}
    with LLMManager(config=config) as llm:
        llm.complete(None, "Say hello.", cache="off")
    assert ollama.loads == [UNLOADED, {"num_ctx": 10240, "num_thread": 2}]  # as calls load it, and only once
    assert all(body["options"]["top_k"] == 1 and body["shift"] is False for body in ollama.bodies())


def test_what_cannot_be_measured_says_so(ollama: Ollama) -> None:
    """Embedding models, answers with one token, and missing models are errors with the reason."""
    ollama.answer = lambda _: {"eval_count": 1}
    for said in ("no answer long enough to time", "embedding model", "testronaut-llm models pull ollama/small:1b"):
        ollama.has = "pull" not in said
        ollama.capabilities = ["embedding" if "embedding" in said else "completion"]
        with pytest.raises(LocalModelError, match=said):
            measured(a_file(ollama.row()), rounds=1)


def test_the_last_speed_is_kept_of_each_model_and_server(tmp_path: Path) -> None:
    """A model on two servers has two rows; other processes see them; files of other versions can be read."""
    history, other = SpeedHistory(tmp_path / "deep" / "speeds.json"), SpeedHistory(tmp_path / "deep" / "speeds.json")
    assert other.latest(row()) is None
    here, there = row("ollama/q"), row("ollama/q", api_base="http://127.0.0.1:9")
    history.add(here, speed("ollama/q", first=3))
    history.add(there, speed("ollama/q", first=9))
    assert [getattr(other.latest(one), "first", None) for one in (here, there)] == [3, 9]
    file = tmp_path / "deep" / "speeds.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    rows = json.loads(file.read_text())
    rows["models"]["ollama/q@http://127.0.0.1:9"].append(_as_row(speed("ollama/q", first=7)) | {"memory": 5})
    file.write_text(json.dumps(rows))
    assert getattr(other.latest(there), "first", None) == 7


def _as_row(one: Speed) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Speed.__slots__}


ZERO = {"models": {"embedded/a": [{**_as_row(speed()), "answer_rate": 0}]}}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"models": 3}', '{"models": {"embedded/a": [{"model": "x"}]}}', json.dumps(ZERO)]
)
def test_a_history_that_cannot_be_read_is_empty_and_started_again(tmp_path: Path, text: str) -> None:
    """It never fails a call, and a new file is started; speeds of zero are ignored."""
    (tmp_path / "speeds.json").write_text(text)
    history = SpeedHistory(tmp_path / "speeds.json")
    assert history.latest(row()) is None
    history.add(row(), speed())
    assert history.latest(row()) == speed()


def test_a_route_shows_the_seconds_and_prefers_the_faster_of_two_free_models(home: ModelStore, tiny_gguf: Path) -> None:
    """This needs measurements of both; until then the listed order holds."""
    stored(home, tiny_gguf, "fast")
    models = {"slow": {"model": NAME}, "fast": {"model": "embedded/fast"}}
    config = LLMConfig(models=models, tasks={"default": {"models": ["slow", "fast"]}})  # type: ignore[arg-type]
    history = SpeedHistory()
    with LLMManager(config=config) as llm:
        history.add(config.model("slow"), speed(NAME, answer_rate=1.0))
        first = llm.route(None, "hi there").candidates
        assert [one.alias for one in first] == ["slow", "fast"]
        history.add(config.model("fast"), speed("embedded/fast", answer_rate=100.0))
        fast, slow = llm.route(None, "hi there").candidates
    assert (fast.alias, slow.alias) == ("fast", "slow")
    assert first[1].est_seconds is None
    expected = (fast.est_tokens or 0) / 100 + (fast.est_completion_tokens or 0) / 100
    assert fast.est_seconds == pytest.approx(expected)
    assert "free, about" in fast.reason


@pytest.mark.usefixtures("home")
def test_the_command_measures_keeps_and_shows(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """It prints a table or JSON; `models list` shows the speed, and `route` then has a column of seconds."""
    assert command("models", "bench", NAME, "--rounds", "2") == 0
    out, err = capsys.readouterr()
    assert "tokens/s" in out
    assert "round 2 of 2" in err
    assert command("models", "bench", NAME, "--rounds", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["model"] == NAME
    assert command("models", "list") == 0
    (line,) = (one for one in capsys.readouterr().out.splitlines() if one.startswith(f"{NAME}\t"))
    assert "tokens/s" in line
    Path("llm.yaml").write_text(f"version: 1\ntasks:\n  default: {{models: [{NAME}, openai/gpt-4o-mini]}}\n")
    assert command("route", "default", "hi", "-c", "llm.yaml") == 0
    head, first, *_ = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert first[head.index("seconds")] not in ("?", "")
