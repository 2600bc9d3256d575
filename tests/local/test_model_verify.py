"""`models verify`: a correct local model passes, and each problem is found by its check."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fixtures_local import TINY
from manager_kit import Run, config
from ollama_kit import Ollama

from testronaut_llm import LLMManager
from testronaut_llm.errors import ConfigError
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.local.verify import alone, verify

EMBEDDED = f"embedded/{TINY}"
CHECKS = ("digest", "chat template", "loads", "answers", "stops", "obeys a schema", "reads the whole prompt",
          "repeats itself", "embeds")  # fmt: skip


def found(row: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Returns the result of each check."""
    with LLMManager(config=alone(config({"mine": row}, system="never sent"), "mine")) as llm:
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
    findings = found({"model": EMBEDDED})
    assert tuple(findings) == CHECKS
    assert outcomes(findings) == {"embeds": "skipped"}
    assert "the server counts" in findings["reads the whole prompt"][1]


@pytest.mark.parametrize(
    ("old", "new", "failing", "said"),
    [
        (b"\0" * 8, b"\0" * 7 + b"\1", ["digest"], f"models remove {EMBEDDED} && testronaut-llm models pull"),
        (b"tokenizer.chat_template", b"tokenizer.chat_templata", ["digest", "chat template"], "llama.cpp guesses one"),
    ],
    ids=["a flipped bit", "no chat template"],
)
def test_a_changed_file_that_still_answers_is_found(
    home: ModelStore, old: bytes, new: bytes, failing: list[str], said: str
) -> None:
    """Only the digest shows a flipped bit. Without a template llama.cpp uses a default one."""
    head, _, rest = home.path(TINY).read_bytes().rpartition(old)
    home.path(TINY).write_bytes(head + new + rest)
    findings = found({"model": EMBEDDED})
    assert [check for check, outcome in outcomes(findings).items() if outcome == "fail"] == failing
    assert said in findings[failing[-1]][1]


def test_what_does_not_load_is_not_asked(home: ModelStore) -> None:
    """For a cut or missing file no text check is made, and each check gives the reason."""
    home.path(TINY).write_bytes(home.path(TINY).read_bytes()[:100_000])
    findings = found({"model": EMBEDDED})
    assert findings["loads"][0] == findings["digest"][0] == "fail"
    assert {findings[check] for check in CHECKS[3:]} == {("skipped", "it does not load")}
    home.remove(TINY)
    findings = found({"model": EMBEDDED})
    assert f"testronaut-llm models pull {EMBEDDED}" in findings["digest"][1]
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
    """It has no local file to check."""
    with pytest.raises(ConfigError, match="expected a model that runs here"):
        alone(config({"mine": {"model": "openai/gpt-4o-mini"}}), "mine")


def test_the_command_prints_a_line_a_check_and_fails_with_one(home: ModelStore, run: Run) -> None:
    """The exit code is 1 if a check fails, else 0."""
    code, out, _ = run("models", "verify", EMBEDDED, "--json")
    assert (code, [one["check"] for one in json.loads(out)]) == (0, [*CHECKS])
    home.path(TINY).write_bytes(b"GGUF")
    code, out, _ = run("models", "verify", EMBEDDED)
    assert (code, len(out.splitlines()), "FAIL     digest" in out) == (1, len(CHECKS), True)
