"""The classes of `llm.yaml`, made in Python: defaults, look-ups, variables, the override, and reprs."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any, get_args

import pytest
from manager_kit import program
from pydantic import ValidationError

from testronaut_llm import errors
from testronaut_llm.config.extra_fields import OWNED
from testronaut_llm.config.model_config import LLMConfig, TaskConfig
from testronaut_llm.config.sections import ErrorCode
from testronaut_llm.errors import ConfigError, UnknownTaskError


def made(row: dict[str, Any] | None = None, **sections: Any) -> LLMConfig:
    """A configuration with the model `a`; `row` are its fields."""
    models = {"a": {"model": "openai/x", **(row or {})}}
    return LLMConfig(**{"tasks": {"default": {"models": "a"}}, "models": models, **sections})


def refusal(row: dict[str, Any] | None = None, **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        made(row, **sections)
    return str(caught.value)


def test_a_configuration_needs_no_file() -> None:
    config = LLMConfig(models={"a": {"model": "openai/gpt/4:b"}}, tasks={"default": {"models": ["a"]}})
    model, task = config.model("a"), config.task("default")
    assert (model.alias, model.provider, model.name, model.quality, model.unset) == ("a", "openai", "gpt/4:b", 5, ())
    assert task == TaskConfig(
        name="default", models=("a",), strategy="cheapest", min_quality=1, max_tokens=4096, temperature=0.0, stop=(),
        seed=None, system=None, timeout=None, deadline=900.0, retries=2, fallback_on=(), allow_truncated=False,
        private=False, cache="use", prompt_cache=False, budget=None, optional=False,
    )  # fmt: skip
    assert (config.cache.ttl, config.cache.size_limit) == (30 * 86400.0, 1024**3)
    assert (config.path, config.trusted, config.budget_scope(), config.version) == (None, True, None, 1)


def test_a_configuration_is_frozen_and_crosses_process_borders() -> None:
    config = made({"extra": {"k": [1]}})
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(ValidationError, match="frozen"):
        config.models["a"].quality = 9


def test_a_model_is_found_by_alias_or_written_out() -> None:
    config = LLMConfig(models={"luna": {"model": "openai/gpt-6-luna", "quality": 8}}, tasks={})
    assert config.model("luna").quality == 8
    direct = config.model("ollama/qwen3:8b")
    assert (direct.alias, direct.provider, direct.name, direct.quality) == ("ollama/qwen3:8b", "ollama", "qwen3:8b", 5)
    for reference in ("lun", "openai/", "/x", "", "a b/c", "${X}/y"):
        with pytest.raises(ConfigError, match="luna"):
            config.model(reference)


def test_no_task_name_means_default() -> None:
    config = LLMConfig(tasks={"default": {"models": "a/b"}, "cli_analysis": {"models": "c/d"}})
    assert config.task(None).models == ("a/b",)
    for name, words in (
        ("cli_analysys", r"'cli_analysys'; did you mean `cli_analysis`\? \(known: default, cli_ana"),
        ("zzz", r"known: cli_analysis, default; or add `zzz: \{models: \[...\]\}`"),
    ):
        with pytest.raises(UnknownTaskError, match=words):
            config.task(name)
    with pytest.raises(UnknownTaskError, match="unknown task 'default'; or add"):
        LLMConfig(tasks={}).task(None)


MODEL_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"model": "gpt-6"}, "models.a.model: expected provider/model"),
    ({"quality": "9"}, "expected a whole number (given: '9')"),
    ({"local": "yes"}, "expected true or false"),
    ({"price": {"input": 1}}, "models.a.price.output: is missing"),
    ({"price": {"input": float("nan"), "output": 1}}, "models.a.price.input: expected an amount of money"),
    ({"keep_alive": "soon"}, "models.a.keep_alive: expected seconds, or a time such as 10m"),
    ({"api_key_env": "A", "api_key_file": "b"}, "takes its key from api_key_env and api_key_file: keep one"),
    ({"limits": {"rps": 1}}, "models.a.limits.rps: unknown key; did you mean `rpm`?"),
    ({"extra": {"x": float("inf")}}, "models.a.extra: expected plain JSON values"),
]
TASK_ROWS: list[tuple[Any, str]] = [
    ({}, "tasks.t.models: is missing"),
    ({"models": []}, "tasks.t.models: is empty: name at least one"),
    ({"models": ["a", "aa"]}, "tasks.t.models[1]: unknown model 'aa'; did you mean `a`? (or write provider/model)"),
    ({"models": ["a", "a"]}, "tasks.t.models[1]: lists 'a' twice"),
    ({"models": "a", "fallback_on": ["content_filtr"]}, "(given: 'content_filtr'); did you mean `content_filter`?"),
    ({"models": "a", "name": "b"}, "tasks.t.name: unknown key"),
    ({"models": "a", "budget": {"scope": "x"}}, "`scope` belongs to the `budget` of the whole file"),
    ("a", "tasks.t: expected a mapping (given: 'a')"),
]
SECTION_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"version": 2}, "version: expected 1 (given: 2)"),
    ({"budget": {"per_day": 0}}, "budget.per_day: expected greater than 0"),
    ({"limits": {"opena": {"rpm": 1}}}, "no model uses the provider 'opena'; did you mean `openai`?"),
    ({"models": {"a b": {"model": "x/y"}, "a": {"model": "x/y"}}}, "'a b' is not a valid name"),
    ({"budget": {"per_day": "${T_D}"}}, "per_day: ${T_D} is not set: export T_D=..., or write ${T_D:-default}"),
]


def test_a_wrong_value_says_what_is_expected() -> None:
    for row, words in MODEL_ROWS:
        assert words in refusal(row)
    for task, words in TASK_ROWS:
        assert words in refusal(tasks={"t": task})
    for sections, words in SECTION_ROWS:
        assert words in refusal(**sections)


def test_the_codes_of_fallback_on_are_those_of_the_error_tree() -> None:
    others = (errors.OutputInvalidError, errors.OutputTruncatedError, errors.LocalModelError)
    assert set(get_args(ErrorCode)) == {kind.code for kind in (*errors.ProviderError.__subclasses__(), *others)}


def test_extra_refuses_what_this_package_sets() -> None:
    words = refusal({"extra": dict.fromkeys(OWNED, 1)})
    assert all(f"models.a.extra.{name}: is set by this package" in words for name in OWNED)
    assert "extra.azure_ad_token: is set by this package: use `api_key_env` of the model's row" in words
    assert {"stream", "max_tokens", "messages", "tools", "response_format", "think"} <= set(OWNED)


def test_only_what_is_nearly_the_name_of_a_used_provider_is_taken_for_a_typo() -> None:
    limits = {"anthropic": {"rpm": 1}, "azure_ai": {"tpm": 2}, "http://127.0.0.1:1/v1": {"concurrency": 1}}
    assert made(tasks={"t": {"models": "azure/y"}}, limits=limits).limits["azure_ai"].tpm == 2


def test_variables_are_filled_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_HOST", "example.test")
    monkeypatch.setenv("T_EIGHT", "8")
    monkeypatch.setenv("T_EMPTY", "")
    model = made({
        "api_base": "http://${T_HOST}:${T_PORT:-81}/v1", "quality": "${T_EIGHT}", "num_ctx": "${T_EMPTY:-4096}",
        "reasoning": "${T_R:-low}", "local": "${T_L:-true}", "auto_pull": "${T_P:-ask}", "keep_alive": "${T_EIGHT}",
        "price": {"input": "${T_EIGHT}", "output": "${T_N:-1.5}"}, "base_model": "$${T_HOST} costs $5",
        "extra": {"k": "${T_HOST}"},
    }).models["a"]  # fmt: skip
    assert (model.api_base, model.quality, model.num_ctx) == ("http://example.test:81/v1", 8, 4096)
    assert (model.reasoning, model.local, model.auto_pull, model.keep_alive) == ("low", True, "ask", 8)
    assert (model.price.input, model.price.output) == (Decimal(8), Decimal("1.5"))
    assert (model.base_model, model.extra, model.unset) == ("${T_HOST} costs $5", {"k": "example.test"}, ())


def test_an_unset_variable_makes_only_that_model_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_EMPTY", "")
    model = made({
        "model": "openai/${T_NAME}", "api_base": "${T_BASE}", "num_ctx": "${T_CTX}", "digest": "${T_DIGEST}",
        "price": {"input": "${T_PRICE}", "output": 2}, "api_key_env": "${T_KEY}", "reasoning": "${T_EMPTY}",
        "extra": {"k": ["${T_BASE}"]},
    }).models["a"]  # fmt: skip
    assert (model.model, model.api_base, model.extra) == ("openai/${T_NAME}", "${T_BASE}", {"k": ["${T_BASE}"]})
    assert (model.num_ctx, model.price, model.digest, model.reasoning, model.api_key_env) == (None,) * 5
    assert model.unset == ("T_NAME", "T_BASE", "T_CTX", "T_DIGEST", "T_PRICE", "T_KEY", "T_EMPTY")


def test_a_malformed_reference_is_a_problem() -> None:
    for text in ("${", "${}", "${1A}", "${A B}", "${A:-${B}}", "${A-x}", "${A" * 10_000):
        words = refusal(tasks={"t": {"models": "a", "system": text}})
        assert "write $${ for a literal one" in words
        assert len(words) < 400


def test_one_variable_overrides_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """`TESTRONAUT_LLM_MODEL` acts like `model=` in each call: `min_quality` is ignored."""
    tasks = {"t": {"models": ["a"], "min_quality": 9, "private": True}, "u": {"models": "a", "min_quality": 9}}
    monkeypatch.setenv("TESTRONAUT_LLM_MODEL", "b")
    config = LLMConfig(models={"a": {"model": "x/y"}, "b": {"model": "x/z"}}, tasks=tasks)
    found = [(t.models, t.min_quality, t.private) for t in config.tasks.values()]
    assert found == [(("b",), 1, True), (("b",), 1, False)]
    monkeypatch.setenv("TESTRONAUT_LLM_MODEL", "ollama/any")
    assert LLMConfig(tasks={"t": {"models": "x/y"}}).task("t").models == ("ollama/any",)
    monkeypatch.setenv("TESTRONAUT_LLM_MODEL", "")
    assert LLMConfig(tasks={"t": {"models": "x/y", "min_quality": 2}}).task("t").min_quality == 2
    monkeypatch.setenv("TESTRONAUT_LLM_MODEL", "aa")
    assert "TESTRONAUT_LLM_MODEL names an unknown model 'aa'; did you mean `a`?" in refusal()


SECRET = "sk-proj-Zq3v8Xn2Lw7Rt5Yb9Kd4"


@pytest.mark.parametrize(
    ("row", "fix"),
    [
        ({"api_key": SECRET}, "write  api_key_env: OPENAI_API_KEY"),
        ({"api_key": "${MY_KEY}"}, "write  api_key_env: MY_KEY"),
        ({"api-key": "x1"}, "write  api_key_env: OPENAI_API_KEY"),
        ({"api_key_env": SECRET}, "write  api_key_env: OPENAI_API_KEY"),
        ({"api_key_env": "0123456789abcdef0123456789abcdef"}, "expected the name of an environment variable"),
        ({"base_model": f"x {SECRET}"}, "keys must not be in this file"),
        ({"extra": {"auth": {"password": "hunter"}}}, "looks like a key"),
        ({"extra": {"u": "${U:-" + SECRET + "}"}}, "looks like a key"),
        ({"api_base": "https://me:secret12@host/v1"}, "keys must not be in this file"),
    ],
)
def test_a_key_written_out_is_refused_with_the_line_to_write_and_is_not_shown(row: dict[str, Any], fix: str) -> None:
    words = refusal(row)
    assert fix in words
    assert words.count("\n") == 0, "one problem, named once"
    for secret in (SECRET, "hunter", "0123456789abcdef", "secret12"):
        assert secret not in words


def test_words_about_passwords_in_prose_are_no_key() -> None:
    prose = "Say what --password=changeme1234 and `Authorization: Bearer abc12345` do, and https://me:pass123@host."
    for system in (prose, "$PROMPT"):
        made(tasks={"t": {"models": "openai/x", "system": system, "stop": ["$END"]}})
    assert "looks like a key" in refusal(tasks={"t": {"models": "openai/x", "system": f"{prose} {SECRET}"}})
    assert "looks like a key" in refusal({"extra": {"user": "password=changeme1234"}})
    assert SECRET not in refusal(**{SECRET: 1})


@pytest.mark.parametrize("spelling", ["$T_NAME", "os.environ/T_NAME"])
def test_a_variable_in_another_spelling_gets_the_right_one(spelling: str) -> None:
    row = {"api_key_env": spelling, "extra": {"user": spelling}, "model": spelling, "num_ctx": spelling}
    words = refusal(row, tasks={"t": {"models": [spelling]}})
    places = ("models.a.extra.user", "models.a.model", "models.a.num_ctx", "tasks.t.models[0]")
    told = {"models.a.api_key_env": "T_NAME", **dict.fromkeys(places, "${T_NAME}")}
    found = [f"{place}: {spelling} is not filled in: write  {name}" for place, name in told.items()]
    assert [line.strip() for line in words.splitlines()[1:]] == found


def test_repr_and_dumps_show_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_TOKEN", "canary-token")
    monkeypatch.setenv("T_URL", "https://user:canary-pass@host/v1?sig=canary-sig")
    extra = {"a": [{"b": "Bearer ${T_TOKEN}"}]}
    config = made({"api_base": "${T_URL}", "api_key_command": "print canary", "extra": extra})
    model = config.models["a"]
    for text in (repr(config), str(config), repr(model), config.model_dump_json(), str(config.model_dump())):
        assert "canary" not in text
        assert "https://***@host/v1" in text
    assert model.environment_texts == ("Bearer canary-token",)
    assert model.api_base == "https://user:canary-pass@host/v1?sig=canary-sig"
    assert repr(made({"quality": 3}).models["a"]) == "ModelConfig(alias='a', model='openai/x', quality=3)"


def test_threads_may_make_the_first_configuration_together() -> None:
    """A new process makes its first configurations in threads, since the models are built on first use."""
    code = """if True:
        from concurrent.futures import ThreadPoolExecutor
        from testronaut_llm.config.model_config import LLMConfig
        made = lambda _: LLMConfig(tasks={"t": {"models": "a/b"}}).model("c/d").name
        print(set(ThreadPoolExecutor(8).map(made, range(8))))"""
    assert program("-c", code).stdout == "{'d'}\n"


def test_a_wrong_value_from_the_environment_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_Q", "USD 4242 canary")
    words = refusal(
        {"quality": "${T_Q}", "price": {"input": "${T_Q}", "output": 1}},
        tasks={"t": {"models": "${T_Q}", "system": ["${T_Q}"], "seed": ["${T_Q}"]}},
    )
    assert "models.a.quality: expected a whole number (given: the value of the environment variable)" in words
    assert "tasks.t.models: unknown model the value of the environment variable" in words
    assert "tasks.t.system: expected text (given: ['***'])" in words
    assert ("canary" in words, "4242" in words) == (False, False)
