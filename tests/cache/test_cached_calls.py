"""The cache in calls: hits and misses, what is stored, and what is never stored."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import faults
import pytest
from manager_kit import KEY, MODES, Make, ask, looked_up, manager, model, program
from pydantic import BaseModel, field_validator
from structlog.testing import capture_logs

from testronaut_llm import LLMError, LLMManager, errors
from testronaut_llm.cache import key as cache_key
from testronaut_llm.cache.files import CacheFiles
from testronaut_llm.cache.key import parts_of
from testronaut_llm.config.sections import CacheConfig
from testronaut_llm.providers.row import Present
from testronaut_llm.support.paths import cache_dir

pytestmark = pytest.mark.usefixtures("provider_keys")

KNOWN_KEY = "baac2aa60bb1f8d6a53ef5652181211471ad31bc3aa78d08d672d6d4be0c6855"
each_mode = pytest.mark.parametrize("mode", MODES)


def person(raises: Exception | None = None) -> type[Any]:
    class Person(BaseModel):
        name: str
        age: int

        @field_validator("name")
        @classmethod
        def _judged(cls, name: str) -> str:
            if raises:
                raise raises
            return name

    return Person


Person = person()


def cached(models: dict[str, Any], tasks: dict[str, Any] | None = None, **task: Any) -> LLMManager:
    return manager(models, tasks, **{"cache": "use", "retries": 0, **task})


def file_of(folder: Path, row: dict[str, Any]) -> Path:
    file = folder / "llm.yaml"
    file.write_text(f"models: {{m: {json.dumps(row)}}}\ntasks: {{t: {{models: m}}}}\n")
    return file


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
    file = file_of(tmp_path, model("openai", a))
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


CHANGES: list[dict[str, dict[str, Any]]] = [
    # what differs in the call, the model's row or the task; tests/call/test_key_fields.py has each field of a call
    {"call": {"prompt": [{"role": "assistant", "content": "hi"}]}},
    {"task": {"system": "Be brief."}},
    {"task": {"max_tokens": 77}},
    {"row": {"extra": {"top_p": 0.5}}},
    {"row": {"model": "openai/another"}},
    {"row": {"api_base": "http://127.0.0.1:9/v1"}},
    {"row": {"api_version": "2024-10-21"}},
    {"row": {"base_model": "gpt-4o"}},
    {"row": {"num_ctx": 4096}},
    {"row": {"reasoning": "low"}},
    {"row": {"digest": "abcdef0"}},
    {"row": {"dimensions": 256}},
]
SAME: list[dict[str, dict[str, Any]]] = [
    {"call": {"temperature": 0, "stop": [], "prompt": [{"role": "user", "content": "hi"}]}},
    {"row": {"quality": 9, "price": {"input": 99, "output": 99}, "api_key_env": "AZURE_API_KEY", "limits": {"rpm": 5}}},
    {"task": {"retries": 5, "strategy": "cheapest"}},
]


def key_of(
    call: dict[str, Any] | None = None, row: dict[str, Any] | None = None, task: dict[str, Any] | None = None
) -> str:
    with cached({"m": model("openai", "http://127.0.0.1:8", **(row or {}))}, **(task or {})) as llm:
        asked = looked_up(llm, **(call or {}))
    (one,) = asked.candidates
    return cache_key.hashed(*parts_of(asked), cache_key.model_part(one.row, one.provider_row, None))


def test_the_key_holds_what_can_change_the_answer_and_nothing_else() -> None:
    keys = [key_of(), *[key_of(**changed) for changed in CHANGES]]
    assert len({*keys}) == len(keys)
    assert [key_of(**same) for same in SAME] == keys[:1] * len(SAME)
    one = {"extra": {"a": 1, "b": {"c": 2, "d": 3}}, "schema": {"type": "integer", "title": "N"}}
    same = {"extra": {"b": {"d": 3, "c": 2}, "a": 1}, "schema": {"title": "N", "type": "integer"}}
    assert key_of(one) == key_of(same)


def test_the_order_of_properties_is_another_question() -> None:
    """The order of properties is part of the key, since a model may reason before it judges; other orders are not."""
    text = {"type": "string"}
    first = {"type": "object", "properties": {"why": text, "passed": text}, "required": ["passed", "why"]}
    second = {"required": ["passed", "why"], "properties": {"passed": text, "why": text}, "type": "object"}
    third = {"required": ["passed", "why"], "properties": {"why": text, "passed": text}, "type": "object"}
    keys = [key_of({"schema": {"type": "array", "items": one}}) for one in (first, second, third)]
    assert keys[0] == keys[2] != keys[1]


def test_keys_are_what_they_were() -> None:
    """Keys never change, so that later versions find answers that users have committed."""
    call = {"system": "Be brief.", "schema": {"type": "array", "items": {"type": "integer"}}, "seed": 5}
    assert key_of(call, row={"reasoning": "low"}) == KNOWN_KEY


def test_the_endpoint_counts_wherever_it_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def base_of(row: dict[str, Any]) -> Any:
        with LLMManager(file_of(tmp_path, row)) as llm:
            (one,) = looked_up(llm).candidates
        return json.loads(cache_key.model_part(one.row, one.provider_row, None))["base"]

    row = {"model": "openai/x", "api_base": "${NOWHERE_BASE}"}
    assert base_of(row) == "${NOWHERE_BASE}"
    monkeypatch.setenv("NOWHERE_BASE", "http://127.0.0.1:8/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert base_of(row) == "http://127.0.0.1:8/v1"
    assert base_of({"model": "openai/x"}) == "http://127.0.0.1:9/v1"


def test_a_local_model_is_known_by_the_digest_it_was_last_seen_with(api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    a = api("a", faults.good("of the first build"))
    seen = ["a" * 64]
    monkeypatch.setattr("testronaut_llm.local.ollama_models.Present", lambda *_: Present(seen[0]))
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
        assert llm.complete("t", "hi").cached
        CacheFiles(llm.config.cache).clear()
        assert [llm.complete("t", "hi").cached for _ in range(2)] == [False, True]


def test_the_first_listed_hit_is_the_answer(api: Make) -> None:
    a, b = api("a", faults.good("from a")), api("b", faults.good("from b"))
    models = {"a": model("openai", a), "b": model("anthropic", b, price={"input": 0, "output": 0})}
    with cached(models, strategy="cheapest") as llm:
        assert llm.complete("t", "hi", model="a").text == "from a"
        assert llm.complete("t", "hi", model="b").text == "from b"
        assert llm.complete("t", "hi").text == "from a"
    absent = {"a": model("openai", a, api_key_env="NOT_THERE"), "b": models["b"]}
    with cached(absent) as llm:
        assert llm.complete("t", "hi").text == "from a"


def test_a_model_that_the_task_excludes_is_not_looked_up(api: Make) -> None:
    a = api("a", faults.good("from a"))
    weak = {"strong": {"models": ["a"], "min_quality": 9}, "near": {"models": ["a"], "private": True}}
    with cached({"a": model("openai", a)}, weak) as llm:
        llm.complete("t", "hi")
        for task in weak:
            with pytest.raises(errors.CacheMissError):
                llm.complete(task, "hi", cache="only")


def test_tasks_and_aliases_share_answers(api: Make) -> None:
    row = model("openai", api("a", faults.good()))
    with cached({"one": row, "two": row}, {"u": {"models": "two"}}, max_tokens=4096) as llm:
        llm.complete("t", "hi", model="one")
        hit = llm.complete("u", "hi")
    assert (hit.cached, hit.task, hit.model) == (True, "u", "two")


def test_a_fallbacks_answer_stays(api: Make) -> None:
    """A later call gets it even if the first model works again."""
    a, b = api("a", faults.error("server_error")), api("b", faults.good("from b"))
    with cached({"a": model("openai", a), "b": model("anthropic", b)}) as llm:
        first = llm.complete("t", "hi")
        a.plan(faults.good("from a"))
        hit = llm.complete("t", "hi")
    assert (first.text, hit.text, hit.cached, hit.saved) == ("from b", "from b", True, first.cost)


@each_mode
async def test_accept_is_asked_on_hits(api: Make, mode: str) -> None:
    a = api("a", faults.good("poor"), faults.good("rich"))
    async with cached({"m": model("openai", a)}) as llm:
        await ask(llm, mode)
        for hits in (False, True):
            answer = await ask(llm, mode, accept=lambda answer: answer.text == "rich")
            assert (answer.text, answer.cached) == ("rich", hits)
    assert len(a.asked) == 2


def test_a_cascade_does_not_pay_again_for_its_rejected_first_model(api: Make) -> None:
    a, b = api("a", faults.good("bad")), api("b", faults.good("fine"))
    models = {"a": model("openai", a, price={"input": 0, "output": 0}), "b": model("anthropic", b, quality=8)}
    with cached(models, strategy="cascade") as llm:
        for _ in range(2):
            assert llm.complete("t", "hi", accept=lambda answer: answer.text == "fine").text == "fine"
    assert (len(a.asked), len(b.asked)) == (1, 1)


@each_mode
async def test_a_hit_is_validated_again(api: Make, mode: str) -> None:
    async with cached({"m": model("openai", api("a", faults.good('{"name": "Ada", "age": 36}')))}) as llm:
        asked, hit = await ask(llm, mode, schema=Person), await ask(llm, mode, schema=Person)
    assert (asked.cached, hit.cached) == (False, True)
    assert asked.parsed == hit.parsed == Person(name="Ada", age=36)
    assert asked.parsed is not hit.parsed


def test_a_hit_that_no_longer_obeys_is_a_miss(api: Make) -> None:
    a = api("a", faults.good('{"name": "Bob", "age": 1}'))
    with cached({"m": model("openai", a)}) as llm, capture_logs() as logs:
        llm.complete("t", "hi", schema=Person)
        with pytest.raises(LLMError):
            llm.complete("t", "hi", schema=person(raises=ValueError("unknown")))
    assert len(a.asked) > 1
    assert "cache_trouble" not in [entry["event"] for entry in logs]


@pytest.mark.parametrize("mode", ["use", "only"])
def test_a_validator_that_raises_is_no_trouble_of_the_store(api: Make, mode: str) -> None:
    a = api("a", faults.good('{"name": "Ada", "age": 36}'))
    with cached({"m": model("openai", a)}) as llm:
        llm.complete("t", "hi", schema=Person)
        with pytest.raises(KeyError, match="the caller's own"):
            llm.complete("t", "hi", schema=person(raises=KeyError("the caller's own")), cache=mode)
        assert len(a.asked) == 1
        assert llm.complete("t", "hi", schema=Person).cached


@each_mode
async def test_off_neither_reads_nor_writes(api: Make, mode: str) -> None:
    a = api("a", faults.good())
    async with cached({"m": model("openai", a)}) as llm:
        await ask(llm, mode, cache="off")
        await ask(llm, mode)
        assert not (await ask(llm, mode, cache="off")).cached
    assert len(a.asked) == 3


@each_mode
async def test_refresh_asks_and_stores(api: Make, mode: str) -> None:
    """The new answer replaces those of all candidates; otherwise an older listed one would be used."""
    a, b = api("a", faults.good("old a")), api("b", faults.good("new b"))
    async with cached({"a": model("openai", a), "b": model("anthropic", b)}) as llm:
        await ask(llm, mode)
        a.plan(faults.error("server_error"))
        assert (await ask(llm, mode, cache="refresh")).text == "new b"
        assert (await ask(llm, mode)).text == "new b"


@each_mode
async def test_only_sends_nothing(api: Make, mode: str) -> None:
    a = api("a", faults.good())
    async with cached({"m": model("openai", a), "n": model("anthropic", a)}) as llm:
        with pytest.raises(errors.CacheMissError, match=r"no answer to this prompt of m, n .*cache import FILE"):
            await ask(llm, mode, cache="only")
        assert not a.asked
        await ask(llm, mode)
        assert (await ask(llm, mode, cache="only")).cached


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


def _entries() -> int:
    return len(list(CacheFiles(CacheConfig()).kept()))


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
        assert _entries() == 0
        a.plan(faults.good('{"name": "Ada", "age": 36}'))
        assert not (await ask(llm, mode, schema=Person)).cached
        assert _entries() == 1


def test_no_secret_reaches_the_cache(api: Make) -> None:
    a = api("a", faults.good(f"Your key is {KEY}, is it not?"), faults.good("fine"))
    with cached({"m": model("openai", a)}) as llm:
        assert KEY in llm.complete("t", "hi").text
        assert not llm.complete("t", f"another, with {KEY} in the prompt").cached
    assert _entries() == 1
    for file in (cache_dir() / "answers").iterdir():
        assert KEY.encode() not in file.read_bytes(), file


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


def test_an_extra_that_is_no_json_goes_uncached(api: Make) -> None:
    with cached({"m": model("openai", api("a", faults.good()))}) as llm, pytest.raises(errors.CacheMissError):
        llm.complete("t", "hi", extra={"x": {1, 2}}, cache="only")


EMBED = ("embed", "aembed")


async def embed(llm: LLMManager, mode: str, texts: list[str], **given: Any) -> Any:
    return llm.embed("t", texts, **given) if mode == "embed" else await llm.aembed("t", texts, **given)


@pytest.mark.parametrize("mode", EMBED)
async def test_vectors_are_kept_by_text(api: Make, mode: str) -> None:
    a = api("a", faults.good())
    async with cached({"m": model("openai", a)}) as llm:
        first = await embed(llm, mode, ["a", "b"])
        mixed = await embed(llm, mode, ["c", "b", "d", "c"])
        hit = await embed(llm, mode, ["d", "a", "c", "b"])
    assert [body["input"] for body in a.bodies] == [["a", "b"], ["c", "d"]]
    assert (mixed.cached, hit.cached, hit.cost, hit.attempts) == (False, True, Decimal(0), ())
    assert mixed.vectors[1] == first.vectors[1]
    assert mixed.vectors[0] == mixed.vectors[3]
    assert hit.vectors == (mixed.vectors[2], first.vectors[0], mixed.vectors[0], first.vectors[1])
    assert mixed.saved == first.cost / 2
    assert hit.saved == first.cost + mixed.cost
    assert hit.usage.prompt_tokens == first.usage.prompt_tokens + mixed.usage.prompt_tokens


@pytest.mark.parametrize("mode", EMBED)
async def test_the_modes_hold_for_vectors(api: Make, mode: str) -> None:
    a = api("a", faults.good())
    async with cached({"m": model("openai", a)}) as llm:
        await embed(llm, mode, ["a"], cache="off")
        with pytest.raises(errors.CacheMissError, match="no vectors of all 2 texts of m"):
            await embed(llm, mode, ["a", "b"], cache="only")
        await embed(llm, mode, ["a"])
        await embed(llm, mode, ["a", "b"], cache="refresh")
        assert (await embed(llm, mode, ["b", "a"], cache="only")).cached
    assert [body["input"] for body in a.bodies] == [["a"], ["a"], ["a", "b"]]
