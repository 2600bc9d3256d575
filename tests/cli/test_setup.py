"""`check`, `init`, `config`, `trust` and `prices`: the file, the installation, and what is missing."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pytest
from fault_server import Endpoint, Exchange, FaultServer
from manager_kit import Run
from typer.main import get_command

from testronaut_llm.cli import app, check
from testronaut_llm.config.source import load_config
from testronaut_llm.local import machine

pytestmark = pytest.mark.usefixtures("folder")
Edit = Callable[[str, str], None]


def test_check_says_what_is_missing(run: Run, edit: Edit, endpoint: Endpoint) -> None:
    code, out, err = run("check")
    assert code == 0
    assert "llm.yaml: valid" in err
    assert "export ANTHROPIC_API_KEY" in out
    assert "optional tasks that no model can run: default; for the reasons, run: testronaut-llm route default" in err
    assert not endpoint.requests
    report = json.loads(run("check", "--json")[1])
    assert {one["alias"]: one["ready"] for one in report["models"]} == {"good": True, "keyless": False}
    assert report["tasks"] == {"cli_analysis": True, "default": False}
    edit("tasks:", "  typo: {model: opanai/gpt-4o}\ntasks:\n  spelt: {optional: true, models: [typo]}")
    code, out, _ = run("check")
    assert (code, "did you mean 'openai/...'" in out, "good\topenai/gpt-4o-mini\tyes" in out) == (2, True, True)
    edit(", optional: true", "")
    assert "\ntasks that no model can run: default; for the reasons" in run("check")[2]


def test_route_and_check_say_what_happens_to_secrets(run: Run, edit: Edit) -> None:
    token = "ghp_a1ZkQ7vR2mXp9LdW4sYc8TbN6hGj3FeU5oKi"
    code, out, err = run("route", "cli_analysis", f"log in with {token}", "--show-masked")
    assert (code, "user: log in with <secret-1>" in out, token in out + err) == (0, True, False)
    assert "secrets: mask (good" in err
    report = json.loads(run("route", "cli_analysis", token, "--show-masked", "--json")[1])
    assert [one["content"] for one in report["messages"]] == ["<secret-1>"]
    assert report["candidates"][0]["secrets"] == "mask"
    assert "secrets in prompts: masked, but for local models (cli_analysis, default)" in run("check")[2]
    edit("version: 1\n", "version: 1\nsecrets: refuse\n")
    assert json.loads(run("check", "--json")[1])["secrets"] == {"cli_analysis": "refuse", "default": "refuse"}
    code, out, err = run("route", "cli_analysis", token)
    assert (code, "(GitHub token): message 1 (user), line 1, character 1" in err, token in err) == (2, True, False)


def test_check_live_asks_for_one_token_or_vector(run: Run, edit: Edit, endpoint: Endpoint) -> None:
    """An answer that is cut after one token is a success, an error is not; only the budget of the file stops it."""
    strict = "tasks:\n  first: {models: [keyless], private: true, min_quality: 9, budget: {per_day: 0.0000001}}\n"
    edit("tasks:\n", strict.replace("private", "optional: true, private"))
    endpoint.plan(faults.good("Hi", finish="length"))
    code, out, _ = run("check", "--live", "--json")
    models = json.loads(out)["models"]
    assert (code, [one["live"] for one in models]) == (0, ["answers", None])
    assert [one["dropped_params"] for one in models] == [[], None]
    assert endpoint.requests[0].body["max_tokens"] == 1
    endpoint.plan(faults.error("authentication"))
    code, out, err = run("check", "--live")
    assert (code, "good\topenai/gpt-4o-mini\tno\t" in out, "all_models_failed" in out) == (1, True, True)
    assert "\ntasks that no model can run: cli_analysis; " in err
    edit("openai/gpt-4o-mini", "openai/text-embedding-3-small")
    run("check", "--live")
    assert endpoint.requests[-1].path.endswith("/embeddings")
    edit("version: 1\n", "version: 1\nbudget: {per_day: 0.0000001}\n")
    assert "budget_exceeded" in run("check", "--live")[1]


def test_check_tells_of_the_installed_litellm(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An untested release may break calls; the warning gives the command to go back."""
    _, _, err = run("check")
    assert re.search(r"litellm \d+\.\d+\.\d+; prices: litellm .*, newest model in it: 20\d\d-", err)
    monkeypatch.setattr(check, "TESTED_LITELLM", "1.110.2")
    for version, newer in ((None, 0), ("1.110.2", 0), ("1.99.9", 0), ("1.110.3", 1), ("1.111.0rc1", 1), ("2.0", 1)):
        monkeypatch.setattr(check, "version", lambda _, version=version: version)
        err = run("check")[2]
        assert f"litellm {version or 'not installed'}; prices: " in err
        assert err.count(f"litellm {version} is newer than 1.110.2") == newer
        assert err.count("pip install 'litellm==1.110.2'") == newer


def test_config_set_keeps_comments(run: Run, folder: Path, edit: Edit) -> None:
    edit("models:\n", "# mine\nmodels:\n  gpt-5.6: {model: openai/gpt-5.6}\n")
    before = (folder / "llm.yaml").read_text()
    code, _, err = run("config", "set", "tasks.cli_analysis.retries", "1")
    assert (code, "tasks.cli_analysis.retries is 1" in err) == (0, True)
    assert (folder / "llm.yaml").read_text() == before.replace("retries: 0", "retries: 1")
    assert run("config", "show", "tasks.cli_analysis.retries")[1] == "1\n"
    assert json.loads(run("config", "show", "tasks.cli_analysis", "--json")[1])["retries"] == 1
    assert run("config", "show", "models.gpt-5.6.quality")[1] == "5\n"
    assert run("config", "show", "tasks.cli_analysis.models.1")[1] == "keyless\n"


def test_init_writes_a_file_that_is_valid_and_trusted(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is trusted with keys and can be committed: its schema is beside it, and it holds no local path."""
    monkeypatch.delenv("TESTRONAUT_LLM_CONFIG")
    (folder / "llm.yaml").unlink()
    code, _, err = run("init")
    assert (code, "then testronaut-llm run cli_analysis 'Explain ls -la'\n" in err) == (0, True)
    assert json.loads(run("check", "--json")[1])["trusted"]
    assert run("init", "--force")[0] == 0
    text = (folder / "llm.yaml").read_text()
    assert "#   luna (openai/gpt-6-luna): OPENAI_API_KEY is not set; export OPENAI_API_KEY='your key'\n" in text
    schema = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert json.loads((folder / schema).read_text())["title"] == "llm.yaml of testronaut-llm"
    assert not [path for path in (str(folder), str(Path.home()), sys.prefix, "file:/") if path in text]


GB = 10**9
SHOWN = {
    "big:70b": ("completion", 400_000 * GB),
    "me/small:1b": ("completion", 1 * GB),
    "small:1b": ("completion", 1 * GB),
    "best:8b": ("completion tools", 2 * GB),
    "nomic-embed-text:latest": ("embedding", 3 * GB),
    "old:7b-cloud": ("completion", 0),
    "far:cloud": ("completion", 0),
}


@pytest.mark.parametrize("older", [False, True])
def test_init_makes_rows_and_tasks_of_what_ollama_has(
    run: Run, server: FaultServer, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    tags = [{"model": name, "size": size} for name, (_, size) in SHOWN.items()]
    tags[-1]["remote_host"] = "https://ollama.com"

    def ollama(exchange: Exchange) -> None:
        said: dict[str, Any] = {"models": tags}
        if exchange.request.path == "/api/show":
            said = {} if older else {"capabilities": SHOWN[exchange.request.body["model"]][0].split()}
        exchange.respond(200, "application/json", json.dumps(said).encode())

    monkeypatch.setattr(machine, "memory", lambda: 16 * GB)
    monkeypatch.setenv("OLLAMA_HOST", server.plan("ollama", ollama).url)
    code, _, err = run("init", "new.yaml")
    assert (code, "ollama-best-8b (ollama/best:8b): ready" in err) == (0, True)
    made = load_config("new.yaml")
    rows = {alias: row.model for alias, row in made.models.items() if alias.startswith("ollama-")}
    assert rows == {
        "ollama-best-8b": "ollama/best:8b",
        "ollama-small-1b": "ollama/me/small:1b",
        "ollama-small-1b-2": "ollama/small:1b",
        "ollama-nomic-embed-text-latest": "ollama/nomic-embed-text:latest",
    }
    assert "qwen" not in made.models
    assert made.tasks["default"].models == ("luna", "ollama-best-8b", "embedded")
    assert made.tasks["embedding"].models == ("ollama-nomic-embed-text-latest", "openai/text-embedding-3-small")


def test_a_found_file_is_trusted_by_command(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TESTRONAUT_LLM_CONFIG")
    code, _, err = run("check")
    assert code == 2
    assert "not trusted, as it may come from elsewhere; read it, then run: testronaut-llm trust\n" in err
    assert run("trust")[0] == 0
    assert json.loads(run("check", "--json")[1])["trusted"]
    (folder / "llm.yaml").unlink()
    code, _, err = run("config", "set", "version", "1")
    assert (code, "testronaut-llm init" in err) == (2, True)


def test_prices_show_their_source_and_are_updated(run: Run, folder: Path) -> None:
    out = run("prices", "show", "openai/gpt-4o-mini")[1]
    assert "source\tlitellm" in out
    assert "\ninput\t$0.15 per million tokens\n" in out
    assert "\ncontext window\t128,000 tokens\n" in out
    assert json.loads(run("prices", "show", "good", "--json")[1])["price"]["source"] == "llm.yaml"
    row = {"litellm_provider": "openai", "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    (folder / "prices.json").write_text(json.dumps({"gpt-x": row}))
    for times in range(2):
        code, out, err = run("prices", "update", "prices.json")
        assert (code, out, "prices.json: 1 models, 1 of them with a price" in err) == (0, "", True)
        assert ("is kept as" in err) is (times == 1)


def test_every_command_and_option_has_help() -> None:
    commands = [get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        assert command.help, command.name
        assert all(getattr(p, "help", None) for p in command.params), command.name
