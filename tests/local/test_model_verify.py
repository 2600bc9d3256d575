"""`models verify`: a correct local model passes, and each problem is found by its check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_local import TINY
from ollama_kit import Ollama

from testronaut_llm import LLMManager
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.errors import ConfigError
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.local.verify import alone, verify

CHECKS = ("digest", "chat template", "loads", "answers", "stops", "obeys a schema", "reads the whole prompt",
          "repeats itself", "embeds")  # fmt: skip


def a_file(row: dict[str, Any]) -> LLMConfig:
    return LLMConfig(models={"mine": row}, tasks={"default": {"models": ["mine"], "system": "never sent"}})  # type: ignore[dict-item]


def found(row: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Returns the result of each check."""
    with LLMManager(config=alone(a_file(row), "mine")) as llm:
        return {one.check: (one.outcome, one.why) for one in verify(llm)}


def outcomes(findings: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {check: outcome for check, (outcome, _) in findings.items() if outcome != "pass"}


def good(body: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer of a correct model: the prompt was read in full, and a schema gives an object."""
    words = sum(len(one["content"].split()) for one in body["messages"])
    text = '{"word": "blue", "sure": true}' if body.get("format") else "Hello."
    return {"message": {"role": "assistant", "content": text}, "prompt_eval_count": 10 + words}


def test_a_sound_embedded_model_passes(home: ModelStore) -> None:
    """The tiny model, served by llama.cpp, passes all checks of a model that makes text."""
    findings = found({"model": f"embedded/{TINY}"})
    assert tuple(findings) == CHECKS
    assert outcomes(findings) == {"embeds": "skipped"}
    assert "the server counts" in findings["reads the whole prompt"][1]


def test_other_bytes_than_were_stored_are_found(home: ModelStore) -> None:
    """With a flipped bit in the last tensor it still loads and answers; only the digest differs."""
    path = home.path(TINY)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    outcome, why = found({"model": f"embedded/{TINY}"})["digest"]
    assert outcome == "fail"
    assert f"testronaut-llm models remove embedded/{TINY} && testronaut-llm models pull" in why


def test_a_file_without_a_chat_template_is_reported(home: ModelStore, tiny_gguf: Path) -> None:
    """It is reported, since llama.cpp then uses a default template."""
    home.path(TINY).write_bytes(tiny_gguf.read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.chat_templata"))
    outcome, why = found({"model": f"embedded/{TINY}"})["chat template"]
    assert outcome == "fail"
    assert "llama.cpp guesses one" in why


def test_what_does_not_load_is_not_asked(home: ModelStore) -> None:
    """For a cut or missing file no text check is made, and each check gives the reason."""
    home.path(TINY).write_bytes(home.path(TINY).read_bytes()[:100_000])
    findings = found({"model": f"embedded/{TINY}"})
    assert findings["loads"][0] == findings["digest"][0] == "fail"
    assert {findings[check] for check in CHECKS[3:]} == {("skipped", "it does not load")}
    home.remove(TINY)
    findings = found({"model": f"embedded/{TINY}"})
    assert f"testronaut-llm models pull embedded/{TINY}" in findings["digest"][1]
    assert findings["loads"][0] == "fail"


def test_a_sound_ollama_model_passes(ollama: Ollama) -> None:
    """All checks pass but `embeds`, which is skipped; every request has temperature 0."""
    ollama.answer = good
    assert outcomes(found(ollama.row())) == {"embeds": "skipped"}
    assert all(body["options"]["temperature"] == 0 for body in ollama.bodies())
    assert "never sent" not in str(ollama.bodies())


Answer = Callable[[dict[str, Any]], dict[str, Any]]


def but(text: str = "", **fields: Any) -> Answer:
    """Returns a correct model's answers with this text or these fields changed."""
    changed = {"message": {"role": "assistant", "content": text}, **fields} if text or not fields else fields
    return lambda body: {**good(body), **changed}


def moody() -> Answer:
    said = iter(range(1000))
    return lambda body: good(body) | ({} if body.get("format") else {"message": {"content": f"Answer {next(said)}."}})


ALL_TEXT = ("answers", "stops", "obeys a schema", "reads the whole prompt", "repeats itself")
FAULTS: dict[str, tuple[Answer, dict[str, str], str]] = {
    "cuts prompts": (but(prompt_eval_count=12), {"reads the whole prompt": "fail"}, "raise `num_ctx`"),
    "never ends": (but(done_reason="length"), {"stops": "fail", "obeys a schema": "fail"}, ""),
    "says other things": (moody(), {"repeats itself": "fail"}, "at temperature 0 it said"),
    "no schema": (but("No JSON from me."), {"obeys a schema": "fail"}, "invalid_output"),
    "no counts": (but(prompt_eval_count=None), {"reads the whole prompt": "skipped"}, "does not report"),
    "says nothing": (but(), dict.fromkeys(set(ALL_TEXT) - {"reads the whole prompt"}, "fail"), "bad_response"),
}


@pytest.mark.parametrize("num_ctx", [1024, 16384])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_model_is_found_by_its_check(ollama: Ollama, fault: str, num_ctx: int) -> None:
    """No other check fails; with a small window a cut prompt is found, too."""
    ollama.answer, failing, said = FAULTS[fault]
    ollama.shown = 16384
    findings = found(ollama.row(num_ctx=num_ctx))
    assert outcomes(findings) == {**failing, "embeds": "skipped"}
    assert all(said in findings[check][1] for check in failing)


@pytest.mark.parametrize("template", ["", "{{ .Prompt }}", "{{.Prompt}}\n"])
def test_an_ollama_model_without_a_template_is_reported(ollama: Ollama, template: str) -> None:
    """P40: it would answer nonsense."""
    ollama.answer, ollama.template = good, template
    outcome, why = found(ollama.row())["chat template"]
    assert outcome == "fail"
    assert "testronaut-llm models pull ollama/hf.co/" in why


def test_a_pinned_digest_that_is_another_is_found(ollama: Ollama) -> None:
    """The `digest:` of the row is compared."""
    ollama.answer = good
    assert found(ollama.row(digest="0123456789"))["digest"] == (
        "fail",
        f"it has {ollama.digest[:12]}, and llm.yaml pins 0123456789; correct `digest:`, or pull it again",
    )
    assert found(ollama.row(digest=ollama.digest))["digest"][0] == "pass"


@pytest.mark.parametrize("tagged", [None, ["embedding"], ["completion"]])
def test_a_sound_embedding_model_of_ollama_passes(ollama: Ollama, tagged: list[str] | None) -> None:
    """It is loaded and asked by `/api/embed`; facts of `show` win over those of the list."""
    ollama.capabilities, ollama.tagged = ["embedding"], tagged
    findings = found(ollama.row(extra={"num_thread": 2}))
    assert outcomes(findings) == {check: "skipped" for check in CHECKS if check not in ("digest", "loads", "embeds")}
    assert {"/api/generate", "/api/chat"}.isdisjoint(ollama.paths)
    assert ollama.loads == [{"num_ctx": 6144, "num_thread": 2}]  # once, for the load and for the texts


def test_a_model_of_the_cloud_is_not_verified() -> None:
    """It has no local file to check."""
    with pytest.raises(ConfigError, match="expected a model that runs here"):
        alone(a_file({"model": "openai/gpt-4o-mini"}), "mine")


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_a_line_a_check_and_fails_with_one(
    home: ModelStore, command: Callable[..., int], capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """The exit code is 1 if a check fails, else 0."""
    arguments = ["models", "verify", f"embedded/{TINY}", *(["--json"] if as_json else [])]
    assert command(*arguments) == 0
    out = capsys.readouterr().out
    assert len(json.loads(out) if as_json else out.splitlines()) == len(CHECKS)
    home.path(TINY).write_bytes(b"GGUF")
    assert command(*arguments) == 1
    out = capsys.readouterr().out
    assert {one["outcome"] for one in json.loads(out)} == {"fail", "skipped"} if as_json else "FAIL     digest" in out
