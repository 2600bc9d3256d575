"""`export litellm-proxy`: all that can move moves, what cannot is said, and no key is written."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures_local import TINY
from manager_kit import KEY

from testronaut_llm import LLMManager
from testronaut_llm.cli import main
from testronaut_llm.config_file import load_config
from testronaut_llm.local.local_provider import Endpoint
from testronaut_llm.model_config import LLMConfig, ModelConfig
from testronaut_llm.proxy_export import MOVED, STAYING, proxy_config

PROXY = os.environ.get("TESTRONAUT_LLM_PROXY") or ""


def exported(row: dict[str, Any], **rest: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    config = LLMConfig(models={"m": row}, tasks={"t": {"models": ["m"]}}, **rest)  # type: ignore[dict-item]
    made, notes = proxy_config(config)
    return made["model_list"][0], notes


def test_every_field_of_a_row_moves_or_has_a_reason_to_stay() -> None:
    """A field that somebody adds has to be put in one of the two lists."""
    assert set(ModelConfig.model_fields) == MOVED | set(STAYING)
    assert not MOVED & set(STAYING)


def test_a_row_moves_with_all_that_the_proxy_understands() -> None:
    """Address, prices a token, limits, window, body fields."""
    row, _ = exported(
        {
            "model": "azure/deployed", "api_base": "https://me.openai.azure.com", "api_version": "v1",
            "base_model": "gpt-4o-mini", "api_key_env": "MY_KEY", "extra": {"user": "me"},
            "price": {"input": 1, "output": "2.5", "cache_read": "0.1", "cache_write": 3},
            "limits": {"rpm": 60, "tpm": 1000, "concurrency": 2}, "context_window": 9000, "max_output": 800,
        }
    )  # fmt: skip
    assert row == {
        "model_name": "m",
        "litellm_params": {
            "model": "azure/deployed", "api_base": "https://me.openai.azure.com", "api_version": "v1",
            "api_key": "os.environ/MY_KEY", "timeout": 120.0, "rpm": 60, "tpm": 1000, "max_parallel_requests": 2,
            "input_cost_per_token": 1e-6, "output_cost_per_token": 2.5e-6, "cache_read_input_token_cost": 1e-7,
            "cache_creation_input_token_cost": 3e-6, "extra_body": {"user": "me"},
        },
        "model_info": {"base_model": "gpt-4o-mini", "max_input_tokens": 9000, "max_tokens": 800},
    }  # fmt: skip


def test_local_rows_go_by_what_litellm_calls_them() -> None:
    """Ollama's chat form with its context; an embedded model is no server."""
    row, _ = exported({"model": "ollama/qwen3:8b", "num_ctx": 4096, "keep_alive": "5m", "api_base": "http://gpu:11434"})
    assert row["litellm_params"] == {
        "model": "ollama_chat/qwen3:8b", "api_base": "http://gpu:11434", "timeout": 600.0, "num_ctx": 4096,
        "keep_alive": "5m",
    }  # fmt: skip
    config = LLMConfig(models={"m": {"model": "embedded/a"}}, tasks={"t": {"models": ["m"]}})  # type: ignore[dict-item]
    made, notes = proxy_config(config)
    assert made["model_list"] == []
    assert any("runs in this program" in note for note in notes)


def test_a_task_is_a_name_to_ask_for_with_its_list_to_fall_back_along() -> None:
    """In the listed order; the packaged file as a whole."""
    made, notes = proxy_config(load_config(Path("llm.yaml")))
    groups = {row["model_name"]: row["litellm_params"]["model"] for row in made["model_list"]}
    assert groups["cli_analysis"] == groups["luna"] == "openai/gpt-6-luna"
    assert {"cli_analysis": ["sonnet", "azure", "qwen"]} in made["router_settings"]["fallbacks"]
    assert made["router_settings"]["num_retries"] == 0
    assert made["litellm_settings"]["max_budget"] == 5.0
    assert made["general_settings"]["master_key"] == "os.environ/LITELLM_MASTER_KEY"
    assert any("budget.per_call" in note for note in notes)
    assert any("limits.openai" in note for note in notes)


def test_no_key_and_no_value_of_the_environment_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy has an environment of its own."""
    monkeypatch.setenv("MY_TOKEN", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    row, notes = exported(
        {"model": "openai/m", "api_base": "https://x.example/${MY_TOKEN}/v1", "extra": {"user": "${MY_TOKEN}"}}
    )
    assert KEY not in json.dumps([row, notes])
    assert any("`extra`" in note for note in notes)
    row, notes = exported({"model": "openai/m", "api_key_command": "pass show openai"})
    assert "pass show" not in json.dumps([row, notes])
    assert row["litellm_params"]["api_key"] == "os.environ/OPENAI_API_KEY"
    row, _ = exported({"model": "azure/m", "api_base": "${NOT_SET_HERE}"})
    assert row["litellm_params"]["api_base"] == "os.environ/NOT_SET_HERE"


def test_the_command_prints_or_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same text; a folder that is not there is an error of ours."""
    file = str(Path("llm.yaml").resolve())
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["testronaut-llm", "export", "litellm-proxy", "-c", file, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0

    assert run() == 0
    printed, said = capsys.readouterr()
    assert "stays here: " in said
    assert run("--out", "proxy.yaml") == 0
    assert (tmp_path / "proxy.yaml").read_text() == printed
    assert yaml.safe_load(printed)["model_list"]
    assert run("--out", "nowhere/proxy.yaml") == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.skipif(
    not shutil.which(PROXY), reason="no proxy: TESTRONAUT_LLM_PROXY names the command of litellm[proxy]"
)
def test_a_real_proxy_takes_it_and_one_line_moves_a_team(
    embedded_server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real proxy on loopback, before the embedded server: the same words through it, by alias and by task."""
    row = {
        "model": f"openai/{TINY}",
        "api_base": embedded_server.api_base,
        "api_key_env": "SERVER_TOKEN",
        "local": True,
    }
    made, _ = proxy_config(LLMConfig(models={"m": row}, tasks={"analysis": {"models": ["m"]}}))  # type: ignore[dict-item]
    (tmp_path / "proxy.yaml").write_text(yaml.safe_dump(made))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment = {**os.environ, "SERVER_TOKEN": embedded_server.token, "LITELLM_MASTER_KEY": "sk-gateway-1234567890"}
    monkeypatch.setenv("SERVER_TOKEN", embedded_server.token)
    monkeypatch.setenv("GATEWAY_KEY", "sk-gateway-1234567890")
    command = [PROXY, "--config", str(tmp_path / "proxy.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        proxy = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health/liveliness", proxy, tmp_path / "log")
        moved = {
            "api_base": f"http://127.0.0.1:{port}",
            "api_key_env": "GATEWAY_KEY",
            "local": True,
            "price": {"input": 0, "output": 0},
        }
        models = {
            "direct": row,
            "shared": {"model": "litellm_proxy/m", **moved},
            "task": {"model": "litellm_proxy/analysis", **moved},
        }
        task = {"models": list(models), "cache": "off", "max_tokens": 300}
        with LLMManager(config=LLMConfig(models=models, tasks={"default": task})) as llm:  # type: ignore[arg-type]
            direct, shared, by_task = (llm.complete(None, "Say hello.", model=name) for name in models)
    finally:
        proxy.terminate()
        proxy.wait(20)
    assert direct.text == shared.text == by_task.text
    assert shared.usage.prompt_tokens == direct.usage.prompt_tokens


def _wait_for(url: str, proxy: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + 90
    while time.monotonic() < end and proxy.poll() is None:
        try:
            with opener.open(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(log.read_text()[-3000:])
