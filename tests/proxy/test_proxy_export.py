"""`export litellm-proxy` writes or lists every setting, and writes no key and no value of a variable."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from manager_kit import Run, prices
from source_tree import ROOT

from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig
from testronaut_llm.config.problems import keys_of
from testronaut_llm.config.sections import BudgetConfig
from testronaut_llm.local.readiness import readiness
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.proxy import ProxyExport, proxy_export

CANARY = "sk-canary-0123456789abcdefghijklmn"
PACKAGED = ROOT / "llm.yaml"


def exported(model: dict[str, Any], **more: Any) -> ProxyExport:
    """The export of one model, `m`, and one task, `t`; or of the sections in `more`."""
    data = {"models": {"m": model}, "tasks": {"t": {"models": ["m"]}}, **more}
    return proxy_export(LLMConfig.model_validate(data), data)


def params(made: ProxyExport) -> dict[str, Any]:
    return dict(made.document["model_list"][0]["litellm_params"])


@pytest.fixture(autouse=True)
def _prices_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prices()  # before `load` is replaced, which it calls
    monkeypatch.setattr(PriceTable, "load", prices)


@pytest.fixture
def export(run: Run) -> Run:
    return lambda *arguments: run("export", "litellm-proxy", *arguments)


EXPECTED = """
model_list:
- {model_name: sonnet, litellm_params: {model: anthropic/claude-sonnet-5-5, api_key: os.environ/ANTHROPIC_API_KEY}}
- model_name: luna
  litellm_params: {model: openai/gpt-6-luna, api_key: os.environ/OPENAI_API_KEY,
                   rpm: 500, tpm: 200000, max_parallel_requests: 16}
- model_name: azure
  litellm_params: {model: azure/my-deployment, api_key: os.environ/AZURE_API_KEY,
                   api_base: os.environ/AZURE_API_BASE, api_version: v1}
  model_info: {base_model: gpt-5.6-luna}
- model_name: qwen
  litellm_params: {model: "ollama_chat/qwen3:8b", api_base: "http://127.0.0.1:11434", num_ctx: 16384,
                   extra_body: {truncate: false}, max_parallel_requests: 1}
- model_name: openai/text-embedding-3-small
  litellm_params: {model: openai/text-embedding-3-small, api_key: os.environ/OPENAI_API_KEY,
                   rpm: 500, tpm: 200000, max_parallel_requests: 16}
router_settings:
  model_group_alias:
    {cli_analysis: luna, test_generation: sonnet, result_verification: qwen,
     embedding: openai/text-embedding-3-small, default: luna}
  fallbacks: [{cli_analysis: [sonnet, azure, qwen]}, {test_generation: [luna]}, {result_verification: [luna]},
              {default: [qwen]}]
  max_fallbacks: 5
  num_retries: 0
  optional_pre_call_checks: [enforce_model_rate_limits]
litellm_settings: {drop_params: true, max_budget: 60.0, budget_duration: 1mo}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""
ENVIRONMENT = {"AZURE_API_BASE": "https://x.openai.azure.com", "OPENAI_API_KEY": CANARY}


def test_the_packaged_file(export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same whatever the variables hold, replaces a file whole, and may share answers through Redis."""
    target, expected = tmp_path / "proxy.yaml", yaml.safe_load(EXPECTED)
    target.write_text("old")
    code, out, err = export("--out", str(target), "--config", str(PACKAGED))
    assert (code, out, f"wrote {target}" in err) == (0, "", True)
    assert yaml.safe_load(target.read_text()) == expected
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    code, out, err = export("--config", str(PACKAGED))
    assert (code, yaml.safe_load(out)) == (0, expected)
    assert "models.embedded.model: runs inside each process" in err
    assert "limits.openai: is shared by luna, openai/text-embedding-3-small here" in err
    assert not [value for value in ENVIRONMENT.values() if value in out + err]
    made = yaml.safe_load(export("--redis", "--config", str(PACKAGED))[1])
    assert made["router_settings"]["redis_url"] == "os.environ/REDIS_URL"
    shared = {"type": "redis", "url": "os.environ/REDIS_URL", "ttl": 2592000.0}
    assert (made["litellm_settings"]["cache"], made["litellm_settings"]["cache_params"]) == (True, shared)


def test_the_head_has_the_rows_that_go_through_the_proxy(export: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = export("--config", str(PACKAGED))
    rows = yaml.safe_load("\n".join(line[3:] for line in out.splitlines() if "{model: litellm_proxy/" in line))
    moved = LLMConfig(models=rows, tasks={"default": {"models": list(rows)}})  # type: ignore[dict-item]
    assert set(rows) == {"sonnet", "luna", "azure", "qwen", "text-embedding-3-small"}
    assert not readiness(moved.models["luna"]).ready
    monkeypatch.setenv("LITELLM_PROXY_API_BASE", "https://gateway.example")
    monkeypatch.setenv("LITELLM_PROXY_API_KEY", CANARY)
    config = LLMConfig.model_validate(yaml.safe_load(PACKAGED.read_text()))
    for name, model in moved.models.items():
        before = config.models.get(name) or config.model("openai/text-embedding-3-small")
        assert (prices().price(model).tiers, model.quality) == (prices().price(before).tiers, before.quality)
        assert readiness(model).ready
    base = "azure/ft:gpt-4o-2024-08-06"  # a model that only OpenAI lists
    made = exported({"model": "azure/d", "api_base": "https://x.openai.azure.com", "base_model": base})
    through = ModelConfig(alias="x", model=made.rows["m"]["model"], base_model=made.rows["m"]["base_model"])
    assert prices().price(through) is not None
    assert made.document["model_list"][0]["model_info"]["base_model"] == through.base_model == f"openai/{base[6:]}"


# One value for each field: a new field has to be given one here.
OPENAI, OLLAMA = {"model": "openai/gpt-6-luna"}, {"model": "ollama/qwen3:8b"}
AZURE = {"model": "azure/d", "api_base": "https://x.openai.azure.com"}
MODEL_FIELDS: dict[str, Any] = {
    "model": "openai/gpt-6", "api_base": "https://models.example/v1", "api_version": "2024-10-21",
    "base_model": "gpt-5.6-luna", "api_key_env": "MINE", "api_key_file": "/k", "api_key_command": "pass show openai",
    "quality": 9, "price": {"input": 1, "output": 2}, "context_window": 9000, "max_output": 900, "num_ctx": 9000,
    "keep_alive": "10m", "digest": "0123456789ab", "auto_pull": True, "reasoning": "low", "local": True,
    "dimensions": 256, "limits": {"rpm": 5}, "extra": {"user": "x"},
}  # fmt: skip
ROWS = dict.fromkeys(("num_ctx", "keep_alive", "digest", "auto_pull"), OLLAMA)
ROWS |= dict.fromkeys(("api_version", "base_model"), AZURE)
TASK_FIELDS: dict[str, Any] = {
    "strategy": "balanced", "min_quality": 2, "max_tokens": 7, "temperature": 1, "stop": "x", "seed": 1,
    "system": "Be brief.", "timeout": 5, "deadline": 50, "retries": 1, "fallback_on": "content_filter",
    "allow_truncated": True, "private": True, "secrets": "mask", "cache": "off", "prompt_cache": True,
    "budget": {"per_day": 1}, "optional": True,
}  # fmt: skip
BUDGET = {"per_call": 1, "per_day": 2, "per_month": 3, "total": 4, "on_exceeded": "warn", "scope": "team"}
SECTIONS = {"cache": {"size_limit": "1MB"}, "limits": {"openai": {"tpm": 9}}, "log": {"file": "x"}, "secrets": "mask"}


def test_every_field_of_a_model_moves_or_is_said_to_stay() -> None:
    for name in keys_of(ModelConfig):
        row = ROWS.get(name, OPENAI)
        made = exported({**row, name: MODEL_FIELDS[name]})
        moved = made.document["model_list"] != exported(row).document["model_list"]
        said = any(line.startswith(f"models.m.{name}:") for line in made.stays)
        asks_for_a_variable = name in ("api_key_file", "api_key_command")
        assert (moved, said) == (True, True) if asks_for_a_variable else moved != said, name


def test_every_other_field_is_spoken_of() -> None:
    changes = [(f"tasks.t.{k}:", {"tasks": {"t": {"models": ["m"], k: v}}}) for k, v in TASK_FIELDS.items()]
    changes += [(f"budget.{name}:", {"budget": {name: value}}) for name, value in BUDGET.items()]
    changes += [(name, {name: value}) for name, value in SECTIONS.items()]
    for place, sections in changes:
        made = exported(OPENAI, **sections)
        moved = place == "limits" and made.document != exported(OPENAI).document
        assert moved or [line for line in made.stays if line.startswith(place)], place
    assert {*TASK_FIELDS, "name", "models"} == {*TaskConfig.model_fields}
    assert {*BUDGET} == {*BudgetConfig.model_fields}
    assert {*SECTIONS, "budget", "version", "models", "tasks"} == {*LLMConfig.model_fields}


def test_a_row_in_the_proxys_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    for row, told in (
        # The usual key goes to its own provider only; without a word here LiteLLM would send it.
        (OPENAI | {"api_base": "https://o.example/v1"}, {"api_base": "https://o.example/v1", "api_key": "none"}),
        # LiteLLM is told `openai/`, whose own endpoint must not get another provider's key.
        ({"model": "groq/a"}, {"api_base": "https://api.groq.com/openai/v1", "api_key": "os.environ/GROQ_API_KEY"}),
        ({"model": "anthropic/claude-sonnet-5-5", "extra": {"top_k": 4}, "reasoning": "off"},
         {"api_key": "os.environ/ANTHROPIC_API_KEY", "top_k": 4, "allowed_openai_params": ["top_k"]}),
        (OPENAI | {"price": {"input": 2, "output": 8, "cache_read": "0.5"}, "api_key_env": "K"},
         {"api_key": "os.environ/K", "input_cost_per_token": 2e-6, "output_cost_per_token": 8e-6,
          "cache_read_input_token_cost": 5e-7, "cache_creation_input_token_cost": 2e-6}),
        (OLLAMA | {"reasoning": "off", "keep_alive": "5m", "extra": {"options": {"top_k": 3}}},
         {"api_base": "http://127.0.0.1:11434", "reasoning_effort": "none", "keep_alive": "5m",
          "extra_body": {"truncate": False, "options": {"top_k": 3}}}),
    ):  # fmt: skip
        provider, _, name = row["model"].partition("/")
        prefix = {"groq": "openai", "ollama": "ollama_chat"}.get(provider, provider)
        assert params(exported(row)) == {"model": f"{prefix}/{name}", **told}


def test_what_came_from_a_variable_is_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WHOLE", "PART", "LISTED"):
        monkeypatch.setenv(name, "hunter2hunter2")
    extra = {"a": "${WHOLE:-x}", "b": {"c": "${WHOLE}"}, "d": ["${LISTED}"], "e": "x-${PART}", "f": 1}
    made = exported(OPENAI | {"api_base": "https://${PART}.example/v1", "extra": extra})
    assert params(made)["extra_body"] == {"a": "os.environ/WHOLE", "b": {"c": "os.environ/WHOLE"}, "f": 1}
    assert "api_base" not in params(made)
    assert "hunter2" not in str(made)
    said = [line.partition(":")[0] for line in made.stays]
    assert said == ["models.m.api_base", "models.m.extra.d", "models.m.extra.e"]


def test_what_cannot_move_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.setenv(name, CANARY)
    assert "api_key" not in params(exported(AZURE))
    for row, says in (
        (OPENAI | {"num_ctx": "${UNSET}"}, "models.m.unset: UNSET is not set here"),
        ({"model": "openai/${UNSET}"}, "models.m.model: UNSET is not set"),
        ({"model": "litellm_proxy/luna"}, "models.m.model: points at a proxy already"),
        (OPENAI | {"api_base": "ftp://x.example"}, "models.m.api_base: is not an http or https URL"),
        (OPENAI | {"api_base": "http://localhost:1/v1"}, "models.m.api_base: is a server on this machine"),
        (OPENAI | {"num_ctx": 5}, "models.m.num_ctx: has a meaning for Ollama only"),
        (AZURE, "models.m.api_key_env: is not needed with Entra ID"),
    ):
        assert [line for line in exported(row).stays if line.startswith(says)], says


def test_what_may_not_do_a_task_is_no_fallback_of_it() -> None:
    """Models that are too weak, remote, or of another vector space are left out, since the proxy has no such rules."""
    models = {"good": {"model": "openai/gpt-6", "quality": 9}, "weak": {"model": "openai/gpt-6-luna", "quality": 3}}
    models["home"] = {"model": "ollama/qwen3:8b", "quality": 9}
    tasks = {
        "strict": {"models": ["good", "weak"], "min_quality": 5},
        "secret": {"models": ["home"], "private": True},
        "vectors": {"models": ["openai/text-embedding-3-small", "openai/text-embedding-3-large"]},
        "weak": {"models": ["good"]},
    }
    made = exported({}, models=models, tasks=tasks)
    router, said = made.document["router_settings"], "\n".join(made.stays)
    assert router["model_group_alias"] == {"strict": "good", "vectors": "openai/text-embedding-3-small"}
    assert router["fallbacks"] == []
    assert "tasks.strict.models: weak: too weak" in said
    assert "tasks.secret.private: its text may not leave this machine" in said
    assert "tasks.vectors.models: openai/text-embedding-3-large: another vector space" in said
    assert "tasks.weak.name: is also the name of a model" in said


def test_the_lowest_limit_holds_and_a_long_list_is_tried_to_its_end() -> None:
    row = OPENAI | {"api_base": "https://h.example/v1/", "limits": {"rpm": 9, "concurrency": 2}}
    limits = {"openai": {"rpm": 5, "tpm": 70}, "https://h.example/v1": {"rpm": 7}, "groq": {"rpm": 1}}
    made = exported(row, limits=limits)
    assert {"rpm": 5, "tpm": 70, "max_parallel_requests": 2}.items() <= params(made).items()
    assert "limits.groq: applies to no model of the proxy" in made.stays
    models = {f"m{n}": {"model": f"openai/x{n}"} for n in range(9)}
    made = exported({}, models=models, tasks={"t": {"models": list(models)}})
    assert made.document["router_settings"]["max_fallbacks"] == 8


def test_what_would_be_wrong_or_lost_is_refused(export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TESTRONAUT_LLM_MODEL is for one run, and an exported file would keep it."""
    code, _, err = export("--out", str(tmp_path / "none" / "x.yaml"))
    assert (code, "cannot write" in err) == (2, True)
    monkeypatch.setenv("TESTRONAUT_LLM_MODEL", "luna")
    code, out, err = export("--config", str(PACKAGED))
    assert (code, out, "unset TESTRONAUT_LLM_MODEL" in err) == (2, "", True)


def test_a_strangers_file_runs_nothing(export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag = tmp_path / "ran"
    nasty = '"caf\\u00e9\\u202e": {model: "openai/x\\u202e"}\n  '
    text = PACKAGED.read_text().replace("quality: 9}", f"quality: 9, api_key_command: touch {flag}}}", 1)
    (tmp_path / "llm.yaml").write_text(text.replace("models:\n  ", f"models:\n  {nasty}", 1))
    monkeypatch.chdir(tmp_path)
    code, _, err = export("--out", "proxy.yaml")
    made = (tmp_path / "proxy.yaml").read_text()
    assert (code, flag.exists()) == (0, False)
    assert "os.environ/SONNET_API_KEY" in made
    assert "touch" not in made + err
    assert not re.search("[^\n -~]", made)
    assert len(yaml.safe_load(made)["model_list"]) == 6
