"""Keys are put in every possible place, and no output of any kind holds one."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from fault_server import Reply
from faults import error, good, raw
from manager_kit import Make, model, program

from testronaut_llm.telemetry.redaction import MASK

PROGRAM = Path(__file__).parents[1] / "support" / "canary_program.py"
KEYS = {
    "OPENAI_API_KEY": "sk-proj-Zq7/canary+One==x9Kd",
    "ANTHROPIC_API_KEY": "sk-ant-Wm4/canary+Two==v2Lp",
    "FILE_KEY": "sk-Bt8/canary+Three==u5Rn",
    "COMMAND_KEY": "sk-Hx3/canary+Four==e7Sy",
    "URL_KEY": "Nd9-canary-Six-u4Bq-not-shaped-like-a-key",
    "HEADER_KEY": "Jc6/canary+Five==o1Tf-not-shaped-like-a-key",
}
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in a URL": lambda key: quote(key, safe=""),
    "in a path": quote,
    "in JSON": lambda key: json.dumps(key)[1:-1],
    "base64": lambda key: base64.b64encode(key.encode()).decode().rstrip("="),
    "base64 with a user": lambda key: base64.b64encode(b"u:" + key.encode()).decode(),
    "base64 for URLs": lambda key: base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
}


def echo(*names: str) -> Reply:
    """Refuses requests, and repeats their keys in every form: in the body, in a header and in an id."""
    words = [form(KEYS[name]) for name in names for form in FORMS.values()]
    body = json.dumps({"error": {"message": "bad key " + ", ".join(words), "type": "x", "param": words[0]}}).encode()
    headers = {"x-request-id": f"req {words[0]}", "x-echo": words[1]}
    return lambda exchange: exchange.respond(401, "application/json", body, headers)


@pytest.fixture
def folder(tmp_path: Path, api: Make) -> Path:
    """An llm.yaml whose models take keys from every source, and whose servers repeat them in every field."""
    (tmp_path / "key").write_text(KEYS["FILE_KEY"])
    (tmp_path / "key").chmod(0o600)
    key = KEYS["OPENAI_API_KEY"]
    plans = {
        "echo": echo("OPENAI_API_KEY"),
        "good": good(f"Your key is {key}"),
        "page": raw(200, f"<html>{key}</html>".encode(), "text/html"),
        "broken": error("server_error", headers={"retry-after-ms": "1", "x-key": key}),
        "file": echo("FILE_KEY"),
        "command": echo("COMMAND_KEY"),
        "header": echo("OPENAI_API_KEY", "HEADER_KEY"),
        "url": echo("OPENAI_API_KEY", "URL_KEY"),
    }
    models = {name: model("openai", api(name, plan)) for name, plan in plans.items()}
    fields = good("fine", model=key, headers={"x-request-id": f"id {key}"})
    for wire in ("openai", "anthropic", "ollama"):
        models[f"fields-{wire}"] = model(wire, api(f"fields-{wire}", fields), api_key_env="OPENAI_API_KEY")
    models["claude"] = model("anthropic", api("claude", echo("ANTHROPIC_API_KEY")))
    models["file"]["api_key_file"] = str(tmp_path / "key")
    models["command"]["api_key_command"] = f"{sys.executable} -c \"print('{KEYS['COMMAND_KEY']}')\""
    models["header"]["extra"] = {"user": "${HEADER_KEY}", "metadata": {"token": "${HEADER_KEY}"}}
    models["url"]["api_base"] = models["url"]["api_base"].replace("/v1", "/${URL_KEY}/v1")
    task = {"models": list(models), "retries": 0, "fallback_on": ["invalid_request"]}
    log = {"file": str(tmp_path / "home" / "events.jsonl"), "content": True}
    text = {"models": models, "tasks": {"t": task, "default": task}, "log": log, "budget": {"per_day": 5}}
    (tmp_path / "llm.yaml").write_text(json.dumps(text))
    return tmp_path


def found(text: str) -> list[str]:
    """Returns the keys that a text holds, with their form."""
    low = text.lower()
    return [f"{name} {how}" for name, key in KEYS.items() for how, form in FORMS.items() if form(key).lower() in low]


def test_no_key_comes_out_anywhere(folder: Path) -> None:
    home = folder / "home"
    environment = {**os.environ, **KEYS, "TESTRONAUT_LLM_HOME": str(home), "HOME": str(folder / "elsewhere")}
    run = program(str(PROGRAM), str(folder / "llm.yaml"), env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    assert all(word in run.stdout for word in ("all_models_failed", "llm_attempt", MASK))
    assert run.stdout.count("'fine', False") == run.stdout.count("'fine', True") == 6
    assert found(run.stdout) == []
    assert found(run.stderr) == []
    written = [one for one in home.rglob("*") if one.suffix != ".lock"]
    assert [one for one in written if one.stat().st_mode & 0o077] == []
    files = [one for one in (*written, folder / "export.jsonl") if one.is_file()]
    said = {one.name: one.read_bytes().decode("latin-1") for one in files}
    assert {"events.jsonl", "ledger.sqlite3", "cache.db", "export.jsonl"} <= {*said}
    assert {name: found(text) for name, text in said.items()} == {name: [] for name in said}
    every = [form(key) for key in KEYS.values() for form in FORMS.values()]
    assert len(found(" ".join(every))) == len(every), "the search finds what is there"
