"""In an untrusted `llm.yaml` only listed fields have an effect, and no attack works."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from config_schema import SECTIONS
from fault_server import FaultServer
from faults import good
from manager_kit import Run
from ollama_kit import Ollama

from testronaut_llm import LLMError, LLMManager
from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.config.source import load_config
from testronaut_llm.config.trust import ALLOWED, is_trusted, record_of, trust
from testronaut_llm.local.ollama_provider import OllamaServer
from testronaut_llm.local.readiness import readiness
from testronaut_llm.providers.credentials import resolve_key
from testronaut_llm.providers.provider_registry import find_provider
from testronaut_llm.support.paths import data_dir

SECRET = "canary-of-the-user-0123456789"
PRICE = {"input": 1, "output": 1}
RENTED = {"model": "azure/d", "api_base": "http://attacker.openai.azure.com", "api_version": "v1", "price": PRICE}
REFUSED_IN_A_ROW: Mapping[str, Any] = {
    "api_version": "v1", "base_model": "gpt-4o", "api_key_env": "ANY_SECRET", "api_key_file": "~/.token",
    "api_key_command": "true", "keep_alive": "5m", "digest": "abcdef", "auto_pull": True, "local": True,
    "dimensions": 3, "extra": {"a": 1},
}  # fmt: skip
REFUSED: Mapping[str, set[str]] = {
    "LLMConfig": {"log"}, "ModelConfig": {*REFUSED_IN_A_ROW}, "BudgetConfig": {"scope"}, "CacheConfig": {"size_limit"},
    "LogConfig": {"file", "content"},
}  # fmt: skip

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the `llm.yaml` of a cloned repository and changes into it; the environment is the user's."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AZURE_API_KEY", "GEMINI_API_KEY", "ANY_SECRET"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.example/v1")
    monkeypatch.chdir(tmp_path)

    def write(models: Mapping[str, Any], task: Mapping[str, Any] | None = None, **sections: Any) -> Path:
        tasks = {"t": {"models": list(models), "strategy": "as_listed", "retries": 0, **(task or {})}}
        path = tmp_path / "llm.yaml"
        path.write_text(json.dumps({"models": models, "tasks": tasks, **sections}))
        return path

    return write


def test_a_strangers_file_cannot_let_secrets_out(write: Write) -> None:
    for value in ("mask", "refuse", "allow"):
        write({"m": {"model": "openai/gpt-4o"}}, {"secrets": value}, secrets=value)
        config = load_config()
        kept = None if value == "allow" else value
        assert (config.secrets, config.tasks["t"].secrets) == (kept, kept)
        assert [words.partition(" ")[0] for words in config.ignored] == ([] if kept else ["tasks.t.secrets", "secrets"])
        assert config.models["m"].withheld == ()


def test_each_field_is_on_the_list_or_known_to_be_refused() -> None:
    for section in SECTIONS:
        fields = {name for name, field in section.model_fields.items() if not field.exclude}
        allowed, refused = ALLOWED.get(section.__name__, frozenset()), REFUSED.get(section.__name__, set())
        assert (allowed | refused, allowed & refused) == (fields, set()), section.__name__


@pytest.mark.parametrize("field", REFUSED_IN_A_ROW)
def test_a_row_that_says_more_than_it_may_is_not_ready(write: Write, field: str) -> None:
    path = write({"m": {"model": "openai/x", field: REFUSED_IN_A_ROW[field]}, "fine": {"model": "openai/x"}})
    config = load_config()
    row, found = config.models["m"], readiness(config.models["m"])
    assert getattr(row, field) == ModelConfig.model_fields[field].get_default(call_default_factory=True)
    assert (found.ready, found.fix) == (False, "read it, then run: testronaut-llm trust")
    assert ("not trusted" in found.missing, field in found.missing) == (True, True)
    copied = LLMConfig(models={"m": row}, tasks={}).models["m"]  # as `models verify` does
    assert readiness(copied) == found
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
    assert (before.trusted, before.ignored, before.models["m"].withheld, after.trusted) == (False, (), (), True)
    assert before.model_dump() == after.model_dump()


ADDRESSES = (
    "https://attacker.openai.azure.com", "http://10.0.0.1/v1", "https://api.openai.com/v1", "//attacker.example",
    "http://127.0.0.1@attacker.example/v1", "http://0x7f.1/", "attacker.example", "http://[::ffff:10.0.0.1]/",
)  # fmt: skip


def test_an_address_beyond_loopback_waits_for_trust(write: Write) -> None:
    """It is checked in readiness, where the key is read, and where Ollama is asked."""
    providers = ("openai", "anthropic", "azure", "ollama", "lm_studio", "gemini", "hosted_vllm")
    for url in ADDRESSES:
        write({provider: {"model": f"{provider}/x", "api_base": url} for provider in providers})
        models = load_config().models
        for row in models.values():
            found = readiness(row)
            assert (found.ready, "api_base" in found.missing) == (False, True)
            with pytest.raises(LLMError, match="testronaut-llm trust"):
                resolve_key(row, find_provider(row.provider))
        with pytest.raises(LLMError, match="testronaut-llm trust"):
            OllamaServer.of(models["ollama"])


def test_a_provider_without_a_host_of_its_own_waits_for_trust(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in ("azure", "azure_ai", "databricks", "bedrock", "vertex_ai", "snowflake", "watsonx"):
        monkeypatch.setenv(f"{provider.upper()}_API_BASE", "http://127.0.0.1:9")
        monkeypatch.setenv(f"{provider.upper()}_API_KEY", SECRET)
        write({"m": {"model": f"{provider}/x"}, "n": {"model": f"{provider}/x", "api_base": "http://127.0.0.1:9"}})
        config = load_config()
        for row in (config.models["m"], config.models["n"], config.model(f"{provider}/y")):
            found = readiness(row)
            assert (found.ready, f"{provider} has no fixed host" in found.missing) == (False, True)


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
    after = load_config()
    assert (after.log is None, after.cache.size_limit, after.budget_scope(), after.ignored) == (False, 1, "mine", ())


IN_A_ROW: Mapping[str, Any] = {
    "model": "openai/${ANY_SECRET}", "api_base": "http://127.0.0.1:9/${ANY_SECRET}", "num_ctx": "${ANY_SECRET}",
    "limits": {"rpm": "${ANY_SECRET}"}, "extra": {"user": "${ANY_SECRET}"}, "reasoning": "${UNSET:-low}",
}  # fmt: skip
IN_A_TASK: Mapping[str, Any] = {
    "system": "say ${ANY_SECRET}", "models": ["openai/${ANY_SECRET}", "${ANY_SECRET}", "m"], "stop": ["${ANY_SECRET}"],
    "max_tokens": "${ANY_SECRET}", "budget": {"per_day": "${ANY_SECRET}"},
}  # fmt: skip


@pytest.mark.parametrize("field", [*IN_A_ROW, *IN_A_TASK])
def test_nothing_is_filled_in(write: Write, field: str) -> None:
    row, task = ({field: fields[field]} if field in fields else {} for fields in (IN_A_ROW, IN_A_TASK))
    write({"m": {"model": "openai/x", **row}}, task)
    config = load_config()
    rows = [config.models["m"], *(config.model(name) for name in config.task("t").models)]
    assert SECRET not in f"{config!r}{config.model_dump()}{rows!r}{[vars(one) for one in rows]}"
    for found in map(readiness, rows):
        assert (found.ready, "${" in found.missing, SECRET in found.missing) == (False, True, False)


def test_a_reference_in_a_section_keeps_every_model_waiting(write: Write) -> None:
    write({"m": {"model": "openai/x"}}, budget={"per_day": "${A}"}, limits={"openai": {"rpm": "${B}"}})
    assert "${A} in budget.per_day, ${B} in limits.openai.rpm" in readiness(load_config().models["m"]).missing
    write({}, tasks={f"t{n}": {"models": "openai/x", "system": "${A}"} for n in range(400)})
    assert len(readiness(load_config().model("openai/x")).missing) < 600


def test_the_key_stays_here_where_a_stranger_chose_the_port(write: Write, server: FaultServer) -> None:
    api = server.plan("port", good("Hello."))
    path = write({"m": {"model": "anthropic/claude-haiku-4-5", "api_base": api.url, "price": PRICE}})
    assert "ANTHROPIC_API_KEY is not sent to its api_base" in readiness(load_config().models["m"]).note
    for trusted in (False, True):
        with LLMManager() as llm:
            assert llm.complete("t", f"trusted: {trusted}").text == "Hello."
        assert api.requests[-1].has_key("x-api-key", SECRET) is trusted
        trust(path)


ATTACKS: Mapping[str, Mapping[str, Any]] = {
    "the usual key": RENTED,
    "a file": {**RENTED, "api_key_file": "token"},
    "a command": {**RENTED, "api_key_command": "cat token"},
    "the path": {**RENTED, "api_base": f"{RENTED['api_base']}/${{ANY_SECRET}}"},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_arrives_at_a_rented_host(
    write: Write, server: FaultServer, run: Run, attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacker = server.plan("attacker", good("Thank you."))
    monkeypatch.setenv("HTTP_PROXY", attacker.url)  # all of plain http but loopback
    monkeypatch.setenv("TESTRONAUT_LLM_ALLOW_HTTP_KEYS", "1")
    (tmp_path / "token").write_text(SECRET)
    (tmp_path / "token").chmod(0o600)
    path = write({"m": ATTACKS[attack]})
    with LLMManager() as llm:
        for ask in (llm.complete, llm.embed, lambda *given: list(llm.stream(*given))):
            with pytest.raises(LLMError, match="testronaut-llm trust"):
                ask("t", "hi")
    shown = "".join(run("check")[1:])
    assert ("testronaut-llm trust" in shown, SECRET in shown, attacker.requests) == (True, False, [])
    trust(path)
    with LLMManager() as llm:
        list(llm.stream("t", "hi"))
    last = attacker.requests[-1]
    assert any(last.has_key(header, SECRET) for header in ("api-key", "authorization"))
    assert (SECRET in last.path) == (attack == "the path")


def test_a_strangers_model_is_asked_not_pulled(write: Write, ollama: Ollama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    path = write({
        "m": {"model": "ollama/other.host/ns/${ANY_SECRET}", "auto_pull": True},
        "n": {"model": "ollama/x", "auto_pull": "ask"}, "fine": {"model": "ollama/small:1b", "num_ctx": 8192},
    })  # fmt: skip
    with LLMManager() as llm:
        assert llm.complete("t", "hi", model="fine").text == "Hello."
        ollama.has = False
        for alias in ("m", "n"):
            for act in (lambda name: llm.complete("t", "hi", model=name), llm.warm_up):
                with pytest.raises(LLMError, match="testronaut-llm trust"):
                    act(alias)
    assert ("/api/pull" in ollama.paths, SECRET in str(ollama.asked)) == (False, False)
    trust(path)
    with LLMManager() as llm:
        assert llm.complete("t", "hi", model="m").text == "Hello."
    assert ollama.bodies("/api/pull")[0]["model"] == f"other.host/ns/{SECRET}"


def test_check_says_what_trusting_would_change(write: Write, run: Run) -> None:
    rows = {"a": {**RENTED, "api_key_env": "ANY_SECRET"}, "b": {"model": "openai/x"}}
    write(rows, {"models": ["a", "b", "azure/direct"]}, cache={"size_limit": 1})
    report = json.loads(run("check", "--json")[1])
    notes = {one["alias"]: one["note"] for one in report["models"]}
    assert "api_base ('http://attacker.openai.azure.com'), api_version ('v1'), api_key_env ('ANY_SECRET')" in notes["a"]
    assert "azure has no fixed host" in notes["azure/direct"]
    told = "key from OPENAI_API_KEY, endpoint from OPENAI_BASE_URL"
    assert (report["ignored"], notes["b"]) == (["cache.size_limit (1)"], told)
    plain = "".join(run("check")[1:])
    assert "without effect until it is trusted: cache.size_limit (1); read it, then run: testronaut-llm trust" in plain


def test_a_file_does_not_trust_itself(write: Write) -> None:
    for field in ("trusted", "withheld", "unset", "alias"):
        write({"m": {"model": "openai/x", field: True}}, **{f"_{field}": True})
        with pytest.raises(LLMError, match=rf"_{field}: unknown key(?s:.*)models\.m\.{field}: unknown key"):
            load_config()


def test_trust_belongs_to_one_path_and_one_text(write: Write, tmp_path: Path) -> None:
    path = write({"m": {"model": "openai/x"}})
    text = path.read_text()
    assert not is_trusted(path, text)
    assert trust(path) == path.resolve()
    assert is_trusted(path, text)
    assert not is_trusted(path, text + "# one more line\n")
    (other := tmp_path / "other.yaml").write_text(text)
    (link := tmp_path / "link.yaml").symlink_to(path)
    assert (is_trusted(other, text), is_trusted(link, text)) == (False, True)
    record = record_of(path)
    assert record.is_relative_to(data_dir())
    assert (record.stat().st_mode & 0o777, record.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    for damage in (b"", b"{", b"[" * 99_999, b"[]", b"\xff\xfe", b'{"path": "x", "sha256": "y"}'):
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
