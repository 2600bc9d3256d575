"""In an untrusted `llm.yaml` only listed fields have an effect, and no attack works."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from config_schema import SECTIONS
from fault_server import Endpoint, FaultServer
from faults import good
from typer.testing import CliRunner

from testronaut_llm import LLMError, LLMManager
from testronaut_llm.cli.app import app
from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.config.source import load_config
from testronaut_llm.config.trust import ALLOWED, is_trusted, record_of, trust
from testronaut_llm.local.ollama_provider import OllamaServer
from testronaut_llm.providers.credentials import resolve_key
from testronaut_llm.providers.provider_registry import find_provider
from testronaut_llm.providers.readiness import readiness
from testronaut_llm.support.paths import data_dir

SECRET = "canary-of-the-user-0123456789"
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AZURE_API_KEY", "GEMINI_API_KEY", "ANY_SECRET")

REFUSED: Mapping[str, Mapping[str, Any]] = {
    "LLMConfig": {"log": {"file": "stolen.jsonl"}},
    "ModelConfig": {
        "api_version": "v1", "base_model": "gpt-4o", "api_key_env": "ANY_SECRET", "api_key_file": "~/.token",
        "api_key_command": "true", "keep_alive": "5m", "digest": "abcdef", "auto_pull": True, "local": True,
        "dimensions": 3, "extra": {"a": 1},
    },
    "BudgetConfig": {"scope": "of-the-user"},
    "CacheConfig": {"size_limit": 1},
    "LogConfig": {"file": "x", "content": True},
}  # fmt: skip
"""Each field that a file may not say until it is trusted, with a value that is not its default."""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the `llm.yaml` of a cloned repository and changes into it; the user's keys are in the environment."""
    for name in KEYS:
        monkeypatch.setenv(name, SECRET)
    monkeypatch.chdir(tmp_path)

    def write(models: Mapping[str, Any], task: Mapping[str, Any] | None = None, **sections: Any) -> Path:
        tasks = {"t": {"models": list(models), "strategy": "as_listed", "retries": 0, **(task or {})}}
        path = tmp_path / "llm.yaml"
        path.write_text(json.dumps({"models": models, "tasks": tasks, **sections}))
        return path

    return write


@pytest.fixture
def attacker(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """Records plain http requests to all hosts but loopback, as their proxy."""
    endpoint = server.plan("attacker", good("Thank you."))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, endpoint.url)
    monkeypatch.setenv("TESTRONAUT_LLM_ALLOW_HTTP_KEYS", "1")
    return endpoint


def test_a_strangers_file_cannot_let_secrets_out(write: Write) -> None:
    for value in ("mask", "refuse", "allow"):
        write({"m": {"model": "openai/gpt-4o"}}, {"secrets": value}, secrets=value)
        config = load_config()
        kept = None if value == "allow" else value
        assert (config.secrets, config.tasks["t"].secrets) == (kept, kept)
        assert [words.partition(" ")[0] for words in config.ignored] == ([] if kept else ["tasks.t.secrets", "secrets"])
        assert config.models["m"].withheld == ()


def test_each_field_is_on_the_list_or_known_to_be_refused() -> None:
    """A new field has no effect in an untrusted file until it is added to a list."""
    for section in SECTIONS:
        fields = {name for name, field in section.model_fields.items() if not field.exclude}
        allowed, refused = ALLOWED.get(section.__name__, frozenset()), set(REFUSED.get(section.__name__, ()))
        assert allowed | refused == fields, section.__name__
        assert not allowed & refused, section.__name__


@pytest.mark.parametrize("field", REFUSED["ModelConfig"])
def test_a_row_that_says_more_than_it_may_is_not_ready(write: Write, field: str) -> None:
    path = write({"m": {"model": "openai/x", field: REFUSED["ModelConfig"][field]}, "fine": {"model": "openai/x"}})
    config = load_config()
    row, found = config.models["m"], readiness(config.models["m"])
    assert getattr(row, field) == ModelConfig.model_fields[field].get_default(call_default_factory=True)
    assert (found.ready, found.fix) == (False, "read it, then run: testronaut-llm trust")
    assert "not trusted" in found.missing
    assert field in found.missing
    assert readiness(config.models["fine"]).ready
    trust(path)
    assert getattr(load_config().models["m"], field) not in (None, False, {})


def test_what_a_row_may_say_is_kept(write: Write) -> None:
    row = {
        "model": "ollama/qwen3:8b", "api_base": "http://127.0.0.1:9", "quality": 7, "price": {"input": 1, "output": 2},
        "context_window": 9, "max_output": 8, "num_ctx": 7, "reasoning": "off", "limits": {"rpm": 6},
    }  # fmt: skip
    assert set(row) == ALLOWED["ModelConfig"]
    path = write({"m": row}, {"budget": {"per_day": 1}, "system": "s"}, budget={"per_day": 2}, cache={"ttl": "1d"})
    before = load_config()
    trust(path)
    after = load_config()
    assert (before.trusted, after.trusted, before.ignored) == (False, True, ())
    assert before.model_dump() == after.model_dump()
    assert before.models["m"].withheld == ()


ADDRESSES = (
    "https://attacker.openai.azure.com", "http://10.0.0.1/v1", "https://api.openai.com/v1", "//attacker.example",
    "http://127.0.0.1@attacker.example/v1", "http://localhost.attacker.example", "http://0x7f.1/",
    "attacker.example", "http://[::ffff:10.0.0.1]/",
)  # fmt: skip


@pytest.mark.parametrize("url", ADDRESSES)
def test_an_address_beyond_loopback_waits_for_trust(write: Write, url: str) -> None:
    providers = ("openai", "anthropic", "azure", "ollama", "lm_studio", "gemini", "hosted_vllm")
    write({provider: {"model": f"{provider}/x", "api_base": url} for provider in providers})
    for row in load_config().models.values():
        found = readiness(row)
        assert (found.ready, "api_base" in found.missing) == (False, True)


def test_a_provider_without_a_host_of_its_own_waits_for_trust(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in ("azure", "azure_ai", "databricks", "bedrock", "vertex_ai", "snowflake", "watsonx"):
        monkeypatch.setenv(f"{provider.upper()}_API_BASE", "http://127.0.0.1:9")
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", SECRET)
        write({"m": {"model": f"{provider}/x"}, "n": {"model": f"{provider}/x", "api_base": "http://127.0.0.1:9"}})
        config = load_config()
        for row in (config.models["m"], config.models["n"], config.model(f"{provider}/y")):
            found = readiness(row)
            assert not found.ready
            assert f"{provider} has no fixed host" in found.missing


def test_sections_about_this_machine_have_no_effect(write: Write) -> None:
    path = write(
        {"m": {"model": "openai/gpt-4o-mini"}},
        log={"file": "${HOME}/x.jsonl"}, cache={"size_limit": 1, "ttl": 5}, budget={"per_day": 1, "scope": "mine"},
    )  # fmt: skip
    config = load_config()
    assert (config.log, config.cache.size_limit, config.cache.ttl) == (None, 1024**3, 5.0)
    assert config.budget_scope() == str(path.resolve())
    assert config.ignored == ("budget.scope ('mine')", "cache.size_limit (1)", "${HOME} in log.file")
    assert readiness(config.models["m"]).ready
    trust(path)
    config = load_config()
    assert (config.cache.size_limit, config.budget_scope(), config.ignored) == (1, "mine", ())
    assert config.log is not None


IN_A_ROW: tuple[dict[str, Any], ...] = (
    {"model": "openai/${ANY_SECRET}"},
    {"model": "openai/${UNSET:-gpt-4o-mini}"},
    {"api_base": "http://127.0.0.1:9/${ANY_SECRET}"},
    {"num_ctx": "${ANY_SECRET}"},
    {"limits": {"rpm": "${ANY_SECRET}"}},
    {"extra": {"user": "${ANY_SECRET}"}},
)
IN_A_TASK: tuple[dict[str, Any], ...] = (
    {"system": "say ${ANY_SECRET}"},
    {"models": ["openai/${ANY_SECRET}", "m"]},
    {"models": "${ANY_SECRET}"},
    {"stop": ["${ANY_SECRET}"]},
    {"max_tokens": "${ANY_SECRET}"},
    {"budget": {"per_day": "${ANY_SECRET}"}},
)


@pytest.mark.parametrize(("row", "task"), [*((row, {}) for row in IN_A_ROW), *(({}, task) for task in IN_A_TASK)])
def test_nothing_is_filled_in(write: Write, row: dict[str, Any], task: dict[str, Any]) -> None:
    write({"m": {"model": "openai/x", **row}}, task)
    config = load_config()
    rows = [config.models["m"], *(config.model(name) for name in config.task("t").models)]
    assert SECRET not in f"{config!r}{config.model_dump()}{rows!r}{[vars(one) for one in rows]}"
    for one in rows:
        found = readiness(one)
        assert (found.ready, "${" in found.missing, SECRET in found.missing) == (False, True, False)


def test_a_reference_in_a_section_keeps_every_model_waiting(write: Write) -> None:
    for section in ({"budget": {"per_day": "${N}"}}, {"limits": {"openai": {"rpm": "${N}"}}}):
        write({"m": {"model": "openai/x"}}, **section)
        assert f"${{N}} in {next(iter(section))}" in readiness(load_config().models["m"]).missing
    tasks = {f"t{n}": {"models": "openai/x", "system": "${A}"} for n in range(400)}
    write({}).write_text(json.dumps({"tasks": tasks}))
    assert len(readiness(load_config().model("openai/x")).missing) < 600


def test_the_key_stays_here_where_a_stranger_chose_the_port(write: Write, server: FaultServer) -> None:
    api = server.plan("port", good("Hello."))
    path = write(
        {"m": {"model": "anthropic/claude-haiku-4-5", "api_base": api.url, "price": {"input": 1, "output": 1}}}
    )
    assert "ANTHROPIC_API_KEY is not sent to its api_base" in readiness(load_config().models["m"]).note
    with LLMManager() as llm:
        assert llm.complete("t", "hi").text == "Hello."
    assert not api.requests[-1].has_key("x-api-key", SECRET)
    trust(path)
    with LLMManager() as llm:
        assert llm.complete("t", "hi again").text == "Hello."
    assert api.requests[-1].has_key("x-api-key", SECRET)


def test_no_key_leaves_by_another_door(write: Write) -> None:
    """The check is where the key is read, not only in readiness."""
    write({"m": azure(RENTED), "o": {"model": "ollama/x:1b", "api_base": "http://10.0.0.1"}})
    models = load_config().models
    for row in models.values():
        with pytest.raises(LLMError, match="testronaut-llm trust"):
            resolve_key(row, find_provider(row.provider))
    with pytest.raises(LLMError, match="testronaut-llm trust"):
        OllamaServer.of(models["o"])


def azure(url: str) -> dict[str, Any]:
    return {"model": "azure/d", "api_base": url, "api_version": "v1", "price": {"input": 1, "output": 1}}


RENTED = "http://attacker.openai.azure.com"
ATTACKS: Mapping[str, dict[str, Any]] = {
    "the usual key": azure(RENTED),
    "a file": {**azure(RENTED), "api_key_file": "token"},
    "a command": {**azure(RENTED), "api_key_command": "cat token"},
    "the path": azure(RENTED + "/${ANY_SECRET}"),
    "any host": {"model": "openai/x", "api_base": "http://attacker.example/v1", "price": {"input": 1, "output": 1}},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_arrives_at_a_rented_host(write: Write, attacker: Endpoint, attack: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "token").chmod(0o600)
    path = write({"m": ATTACKS[attack]})
    with LLMManager() as llm:
        for ask in (llm.complete, llm.embed, lambda *given: list(llm.stream(*given))):
            with pytest.raises(LLMError, match="testronaut-llm trust"):
                ask("t", "hi")
    shown = CliRunner().invoke(app, ["check"])
    assert "testronaut-llm trust" in shown.output
    assert SECRET not in shown.output
    assert attacker.requests == []
    trust(path)
    with LLMManager() as llm:
        list(llm.stream("t", "hi"))
    assert attacker.requests
    if attack != "any host":
        headers = ("api-key", "authorization")
        assert any(attacker.requests[-1].has_key(header, SECRET) for header in headers)
        assert (SECRET in attacker.requests[-1].path) == (attack == "the path")


def test_a_strangers_model_is_not_pulled(write: Write, ollama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    ollama.has = False
    path = write({
        "m": {"model": "ollama/other.host/ns/${ANY_SECRET}", "auto_pull": True},
        "n": {"model": "ollama/x", "auto_pull": "ask"},
    })  # fmt: skip
    with LLMManager() as llm:
        for alias in ("m", "n"):
            for act in (lambda name: llm.complete("t", "hi", model=name), llm.warm_up):
                with pytest.raises(LLMError, match="testronaut-llm trust"):
                    act(alias)
    assert "/api/pull" not in ollama.paths
    assert SECRET not in str(ollama.asked)
    trust(path)
    with LLMManager() as llm:
        assert llm.complete("t", "hi", model="m").text == "Hello."
    assert ollama.bodies("/api/pull")[0]["model"] == f"other.host/ns/{SECRET}"


def test_an_ollama_row_goes_to_the_users_own_server(write: Write, ollama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.example/v1")
    write({"m": {"model": "ollama/small:1b", "num_ctx": 8192}, "n": {"model": "openai/gpt-4o-mini"}})
    with LLMManager() as llm:
        assert llm.complete("t", "hi").text == "Hello."
        assert readiness(llm.config.models["n"]).ready


def test_check_says_what_trusting_would_change(write: Write) -> None:
    rows = {"a": {**azure(RENTED), "api_key_env": "ANY_SECRET"}, "b": {"model": "openai/x"}}
    write(rows, {"models": ["a", "b", "azure/direct"]}, cache={"size_limit": 1})
    report = json.loads(CliRunner().invoke(app, ["check", "--json"]).stdout)
    notes = {one["alias"]: one["note"] for one in report["models"]}
    assert report["ignored"] == ["cache.size_limit (1)"]
    assert "api_base ('http://attacker.openai.azure.com'), api_version ('v1'), api_key_env ('ANY_SECRET')" in notes["a"]
    assert all("azure has no fixed host" in notes[name] for name in ("a", "azure/direct"))
    assert notes["b"] == "key from OPENAI_API_KEY"
    plain = CliRunner().invoke(app, ["check"]).output
    assert "without effect until it is trusted: cache.size_limit (1); read it, then run: testronaut-llm trust" in plain


def test_a_row_stays_a_strangers_in_another_configuration(write: Write) -> None:
    """A row that is copied out of its file, as by `models verify`, is still untrusted."""
    write({"m": {"model": "ollama/x:1b", "auto_pull": True}})
    row = load_config().models["m"]
    other = LLMConfig(models={"m": row}, tasks={"t": {"models": ["m"]}})
    assert not readiness(other.models["m"]).ready


def test_a_file_does_not_trust_itself(write: Write) -> None:
    for field in ("trusted", "withheld", "unset", "alias"):
        write({"m": {"model": "openai/x", field: True}}, **{f"_{field}": True})
        with pytest.raises(LLMError, match=rf"_{field}: unknown key(?s:.*)models\.m\.{field}: unknown key"):
            load_config()


def test_a_reference_in_place_of_a_section_is_an_error(write: Write) -> None:
    for tasks in ("{t: ['${A}']}", "['${A}']", "'${A}'", "{}\nmodels: {m: ['${A}']}"):
        write({}).write_text(f"tasks: {tasks}")
        with pytest.raises(LLMError, match=r"llm\.yaml"):
            load_config()


def test_trust_belongs_to_one_path_and_one_text(write: Write, tmp_path: Path) -> None:
    path = write({"m": {"model": "openai/x"}})
    text = path.read_text()
    assert not is_trusted(path, text)
    assert trust(path) == path.resolve()
    assert is_trusted(path, text)
    assert not is_trusted(path, text + "# one more line\n")
    (tmp_path / "other.yaml").write_text(text)
    assert not is_trusted(tmp_path / "other.yaml", text)
    (tmp_path / "link.yaml").symlink_to(path)
    assert is_trusted(tmp_path / "link.yaml", text)
    record = record_of(path)
    assert record.is_relative_to(data_dir())
    assert (record.stat().st_mode & 0o777, record.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    for damage in (b"", b"{", b"[]", b"\xff\xfe", b'{"path": "x", "sha256": "y"}'):
        record.write_bytes(damage)
        assert not is_trusted(path, text)


def test_what_cannot_be_read_or_recorded_is_a_config_error(write: Write, tmp_path: Path) -> None:
    path = write({"m": {"model": "openai/x"}})
    with pytest.raises(LLMError, match=r"cannot read .*missing\.yaml"):
        trust(tmp_path / "missing.yaml")
    data_dir().mkdir(parents=True)
    (data_dir() / "trusted").write_text("in the way")
    with pytest.raises(LLMError, match="cannot trust"):
        trust(path)
