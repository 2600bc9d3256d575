"""The cache in calls: hits and misses, what is stored, and what is never stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import faults
import pytest
from manager_kit import MODES, Make, ask, looked_up, manager, model, program
from pydantic import AfterValidator, create_model
from structlog.testing import capture_logs

from testronaut_llm import LLMError, LLMManager, errors
from testronaut_llm.cache.entry import hashed, model_part, parts_of
from testronaut_llm.cache.files import CacheFiles
from testronaut_llm.config.sections import CacheConfig
from testronaut_llm.local import readiness
from testronaut_llm.providers.provider import Present

pytestmark = pytest.mark.usefixtures("provider_keys")

each_mode = pytest.mark.parametrize("mode", MODES)


def person(judge: Callable[..., Any] = str) -> type[Any]:
    return create_model("Person", name=(Annotated[str, AfterValidator(judge)], ...), age=(int, ...))


Person = person()


def cached(models: dict[str, Any], tasks: dict[str, Any] | None = None, **task: Any) -> LLMManager:
    return manager(models, tasks, **{"cache": "use", "retries": 0, **task})


@each_mode
@pytest.mark.parametrize("first", ["complete", "astream"])
async def test_the_second_call_costs_nothing(api: Make, first: str, mode: str) -> None:
    a = api("a", faults.good("Hello,\n  world. "))
    async with cached({"m": model("openai", a)}) as llm:
        asked, hit = await ask(llm, first), await ask(llm, mode)
    assert len(a.asked) == 1
    assert (asked.cached, asked.cost, asked.saved) == (False, Decimal("0.000024"), None)
    assert (hit.cached, hit.cost, hit.saved, hit.attempts) == (True, Decimal(0), asked.cost, ())
    paid = {"cached": False, "cost": asked.cost, "saved": None, "attempts": asked.attempts, "latency": asked.latency}
    assert replace(hit, **paid) == asked
    assert 0 < hit.latency < asked.latency
    with cached({"m": model("openai", a)}) as llm:
        assert list(llm.stream("t", "hi")) == ["Hello,\n  ", "world. "]


def test_another_process_and_another_manager_find_it(api: Make, tmp_path: Path) -> None:
    """The store is shared; a process without a key that hits it loads no LiteLLM, tokenizer or price."""
    a = api("a", faults.good("from the store"))
    file = tmp_path / "llm.yaml"
    file.write_text(json.dumps({"models": {"m": model("openai", a)}, "tasks": {"t": {"models": "m"}}}))
    with LLMManager(file) as llm:
        llm.complete("t", "hi")
    code = f"""
import os, sys
os.environ.pop("OPENAI_API_KEY", None)
from testronaut_llm import LLMManager
with LLMManager({str(file)!r}) as llm:
    answer = llm.complete("t", "hi")
assert answer.cached
heavy = ("litellm", "openai", "tiktoken", "tokencost", "httpx", "psutil", "jsonschema",
         "testronaut_llm.gateway.gateway", "testronaut_llm.call")
print(answer.text, [name for name in heavy if name in sys.modules], llm._made is not None)
"""
    a.plan(faults.error("server_error"))
    done = program("-c", code)
    assert done.stdout.strip() == "from the store [] False", done.stderr
    assert not a.asked


# What differs in the model's row; tests/cache/test_key_fields.py has each field of a call.
CHANGES: dict[str, Any] = {
    "extra": {"top_p": 0.5}, "model": "openai/another", "api_base": "http://127.0.0.1:9/v1", "num_ctx": 4096,
    "api_version": "2024-10-21", "base_model": "gpt-4o", "reasoning": "low", "digest": "abcdef0", "dimensions": 256,
}  # fmt: skip
SAME = {"quality": 9, "price": {"input": 99, "output": 99}, "api_key_env": "AZURE_API_KEY", "limits": {"rpm": 5}}


def key_of(row: dict[str, Any] | None = None, **call: Any) -> str:
    with cached({"m": model("openai", "http://127.0.0.1:8", **(row or {}))}) as llm:
        asked = looked_up(llm, **call)
    (one,) = asked.candidates
    return hashed(*parts_of(asked), model_part(one.row, one.provider_row, None))


def test_the_key_holds_what_can_change_the_answer_and_nothing_else() -> None:
    keys = [key_of(), *[key_of({name: value}) for name, value in CHANGES.items()]]
    keys.append(key_of(prompt=[{"role": "assistant", "content": "hi"}]))
    assert len({*keys}) == len(keys)
    as_default = {"temperature": 0, "stop": [], "prompt": [{"role": "user", "content": "hi"}]}
    assert [key_of(SAME), key_of(**as_default)] == [keys[0]] * 2
    with cached({"m": model("openai", "http://127.0.0.1:8")}) as llm:
        assert parts_of(looked_up(llm, extra={"x": {1, 2}})) == ()  # this is no JSON


def test_the_order_of_properties_counts_and_no_other_order() -> None:
    """A model that gives its reasons first judges better."""
    text = {"type": "string"}
    first = {"type": "object", "properties": {"why": text, "passed": text}, "required": ["passed", "why"]}
    second = {**first, "properties": {"passed": text, "why": text}}
    keys = [key_of(schema={"type": "array", "items": one}) for one in (first, second, dict(reversed(first.items())))]
    assert keys[0] == keys[2] != keys[1]
    assert key_of(extra={"a": 1, "b": {"c": 2, "d": 3}}) == key_of(extra={"b": {"d": 3, "c": 2}, "a": 1})


def test_keys_are_what_they_were() -> None:
    """Keys never change, so that later versions find answers that users have committed."""
    call = {"system": "Be brief.", "schema": {"type": "array", "items": {"type": "integer"}}, "seed": 5}
    assert key_of({"reasoning": "low"}, **call) == "baac2aa60bb1f8d6a53ef5652181211471ad31bc3aa78d08d672d6d4be0c6855"


def test_the_endpoint_counts_wherever_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    at_8, at_9 = key_of({"api_base": "http://127.0.0.1:8/v1"}), key_of({"api_base": "http://127.0.0.1:9/v1"})
    assert key_of({"api_base": "${NOWHERE_BASE}"}) not in (at_8, at_9)
    monkeypatch.setenv("NOWHERE_BASE", "http://127.0.0.1:8/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert (key_of({"api_base": "${NOWHERE_BASE}"}), key_of({"api_base": None})) == (at_8, at_9)


def test_a_local_model_is_known_by_the_digest_it_was_last_seen_with(api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    a = api("a", faults.good("of the first build"))
    seen = ["a" * 64]
    monkeypatch.setitem(readiness._PROBES, "ollama", lambda _: Present(seen[0]))
    with cached({"m": model("ollama", a)}) as llm:
        llm.complete("t", "hi")
    with cached({"m": model("ollama", a)}) as llm:
        assert llm.complete("t", "hi", cache="only").text == "of the first build"
        seen[0] = "b" * 64
        llm._probes.forget()
        a.plan(faults.good("of the second build"))
        llm.complete("t", "another prompt")  # the server is looked at, and its model is another one
        with pytest.raises(errors.CacheMissError):
            llm.complete("t", "hi", cache="only")
        assert llm.complete("t", "hi").text == "of the second build"
        CacheFiles(llm.config.cache).clear()
        assert [llm.complete("t", "hi").cached for _ in range(2)] == [False, True]


def test_the_first_listed_hit_is_the_answer(api: Make) -> None:
    a, b = api("a", faults.good("from a")), api("b", faults.good("from b"))
    models = {"a": model("openai", a), "b": model("anthropic", b, price={"input": 0, "output": 0})}
    with cached(models, strategy="cheapest") as llm:
        assert llm.complete("t", "hi", model="a").text == "from a"
        assert llm.complete("t", "hi", model="b").text == "from b"
        assert llm.complete("t", "hi").text == "from a"


def test_tasks_and_aliases_share_the_answers_of_models_that_each_task_allows(api: Make) -> None:
    row = model("openai", api("a", faults.good()))
    strict = {"strong": {"models": ["two"], "min_quality": 9}, "near": {"models": ["two"], "private": True}}
    with cached({"one": row, "two": row}, {"u": {"models": "two"}, **strict}, max_tokens=4096) as llm:
        llm.complete("t", "hi", model="one")
        hit = llm.complete("u", "hi")
        assert (hit.cached, hit.task, hit.model) == (True, "u", "two")
        for task in strict:
            with pytest.raises(errors.CacheMissError):
                llm.complete(task, "hi", cache="only")


@each_mode
async def test_accept_is_asked_on_hits(api: Make, mode: str) -> None:
    async with cached({"m": model("openai", api("a", faults.good("poor"), faults.good("rich")))}) as llm:
        await ask(llm, mode)
        answers = [await ask(llm, mode, accept=lambda answer: answer.text == "rich") for _ in range(2)]
    assert [(answer.text, answer.cached) for answer in answers] == [("rich", False), ("rich", True)]


@each_mode
async def test_a_hit_is_validated_again_by_the_class_of_its_call(api: Make, mode: str) -> None:
    a = api("a", faults.good('{"name": "Ada", "age": 36}'))
    async with cached({"m": model("openai", a)}) as llm:
        with capture_logs() as logs:
            asked, hit = await ask(llm, mode, schema=Person), await ask(llm, mode, schema=Person)
            for kind in ("use", "only"):
                with pytest.raises(KeyError, match="Ada"):
                    await ask(llm, mode, schema=person({"Bob": "Robert"}.__getitem__), cache=kind)
            assert (await ask(llm, mode, schema=Person)).cached
            assert len(a.asked) == 1
            with pytest.raises(LLMError):
                await ask(llm, mode, schema=person(int))
    assert len(a.asked) > 1
    assert "cache_trouble" not in [entry["event"] for entry in logs]
    assert (asked.cached, hit.cached) == (False, True)
    assert asked.parsed == hit.parsed == Person(name="Ada", age=36)
    assert asked.parsed is not hit.parsed


@each_mode
async def test_off_and_only_and_refresh(api: Make, mode: str) -> None:
    a, b = api("a", faults.good("old a")), api("b", faults.good("new b"))
    async with cached({"a": model("openai", a), "b": model("anthropic", b)}) as llm:
        await ask(llm, mode, cache="off")
        with pytest.raises(errors.CacheMissError, match=r"no answer to this prompt of a, b .*cache import FILE"):
            await ask(llm, mode, cache="only")
        assert len(a.asked) == 1
        assert not (await ask(llm, mode)).cached
        assert (await ask(llm, mode, cache="only")).cached
        assert not (await ask(llm, mode, cache="off")).cached
        a.plan(faults.error("server_error"))
        assert (await ask(llm, mode, cache="refresh")).text == "new b"
        a.plan(faults.good("newer a"))
        hit = await ask(llm, mode)  # the older answer of `a`, which is listed first, is gone
    assert (hit.text, hit.cached) == ("new b", True)


def test_the_environment_rules_the_tasks_and_the_call_rules_it(api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    a = api("a", faults.good())
    with cached({"m": model("openai", a)}, cache="off") as llm:
        monkeypatch.setenv("TESTRONAUT_LLM_CACHE", "only")
        with pytest.raises(errors.CacheMissError):
            llm.complete("t", "hi")
        assert not llm.complete("t", "hi", cache="use").cached
        assert llm.complete("t", "hi").cached
        monkeypatch.setenv("TESTRONAUT_LLM_CACHE", "")
        assert not llm.complete("t", "hi").cached
        monkeypatch.setenv("TESTRONAUT_LLM_CACHE", "always")
        with pytest.raises(errors.InvalidRequestError, match="TESTRONAUT_LLM_CACHE is 'always'; expected one of use"):
            llm.complete("t", "hi")


@pytest.mark.parametrize("mode", ["complete", "stream"])
async def test_what_is_not_whole_is_not_stored(api: Make, mode: str) -> None:
    a = api("a", faults.good('{"name": 5}'))
    async with cached({"m": model("openai", a)}, allow_truncated=True) as llm:
        with pytest.raises(LLMError):
            await ask(llm, mode, schema=Person)
        a.plan(faults.good("half an ans", finish="length"))
        assert (await ask(llm, mode)).text == "half an ans"
        with llm.stream("t", "hi") as stream:
            next(stream)
        assert list(CacheFiles(CacheConfig()).kept()) == []
        a.plan(faults.good('{"name": "Ada", "age": 36}'))
        assert not (await ask(llm, mode, schema=Person)).cached
        assert len(list(CacheFiles(CacheConfig()).kept())) == 1


def test_a_hit_is_booked_and_needs_no_money(api: Make) -> None:
    with cached({"m": model("openai", api("a", faults.good()))}) as llm:
        llm.complete("t", "hi")
        with capture_logs() as logs:
            llm.complete("t", "hi", max_cost=0)
        with pytest.raises(errors.BudgetExceededError):
            llm.complete("t", "ho", max_cost=0)
        assert llm.session.saved == Decimal("0.000024")
        llm._ledger.flush()
        assert llm.spend().total.hits == 1
    (event,) = logs
    assert (event["event"], event["llm.cached"], event["llm.attempts"]) == ("llm_call", True, 0)
    assert (event["llm.cost_usd"], event["llm.saved_usd"]) == ("0", "0.000024")


async def test_vectors_are_kept_by_text_in_each_cache_mode(api: Make) -> None:
    a = api("a", faults.good())
    async with cached({"m": model("openai", a)}) as llm:
        await llm.aembed("t", ["a"], cache="off")
        with pytest.raises(errors.CacheMissError, match="no vectors of all 2 texts of m"):
            llm.embed("t", ["a", "b"], cache="only")
        first = llm.embed("t", ["a", "b"])
        mixed = await llm.aembed("t", ["c", "b", "d", "c"])
        hit = await llm.aembed("t", ["d", "a", "c", "b"])
        llm.embed("t", ["a", "b"], cache="refresh")
        assert llm.embed("t", ["b", "a"], cache="only").cached
    assert [body["input"] for body in a.bodies] == [["a"], ["a", "b"], ["c", "d"], ["a", "b"]]
    assert (mixed.cached, hit.cached, hit.cost, hit.attempts) == (False, True, Decimal(0), ())
    assert mixed.vectors[1] == first.vectors[1]
    assert mixed.vectors[0] == mixed.vectors[3]
    assert hit.vectors == (mixed.vectors[2], first.vectors[0], mixed.vectors[0], first.vectors[1])
    assert (mixed.saved, hit.saved) == (first.cost / 2, first.cost + mixed.cost)
    assert hit.usage.prompt_tokens == first.usage.prompt_tokens + mixed.usage.prompt_tokens
