"""Arguments of a call are checked by name before anything is spent, and arrive unchanged."""

from __future__ import annotations

import functools
import inspect
import operator
import pydoc
import re
import time
from decimal import Decimal
from typing import Any

import pytest
from manager_kit import MODES, build_call, looked_up, manager

from testronaut_llm import CallOptions, EmbedOptions, LLMManager, Message
from testronaut_llm.config.model_config import TaskConfig
from testronaut_llm.errors import InvalidRequestError, UnknownTaskError
from testronaut_llm.testing.fake import FakeLLM

TASK = TaskConfig(name="t", models=("openai/x",), max_tokens=77, temperature=0.5, stop=("END",), seed=3,
                  system="Be brief.", timeout=9.0, deadline=99.0, retries=4, cache="off")  # fmt: skip
PLAIN = TaskConfig(name="t", models=("openai/x",))
TURN = {"role": "user", "content": "hi"}


def test_the_task_fills_in_what_the_caller_left_out() -> None:
    call = build_call(TASK, "hi")
    assert [(m.role, m.content) for m in call.messages] == [("system", "Be brief."), ("user", "hi")]
    assert (call.task, call.max_tokens, call.temperature, call.stop, call.seed) == ("t", 77, 0.5, ("END",), 3)
    assert (call.timeout, call.deadline, call.settings.retries, call.cache) == (9.0, 99.0, 4, "off")
    assert (call.output, call.accept, call.model, call.max_cost, call.stream) == (None, None, None, None, False)


def test_the_caller_overrides_the_task() -> None:
    """Its mappings are copied, so that the caller can change them later."""
    extra, metadata = {"top_k": 1}, {"run": 1}
    given = {"max_tokens": 5, "temperature": 0, "seed": 0, "cache": "refresh", "sample": 2, "timeout": 1.0,
             "deadline": 2.0, "model": "m", "extra": extra, "metadata": metadata}  # fmt: skip
    call = build_call(TASK, [TURN], system="", stop=[], max_cost=0.05, stream=True, **given)
    assert {name: getattr(call, name) for name in given} == given
    assert ([m.role for m in call.messages], call.stop, call.max_cost) == (["user"], (), Decimal("0.05"))
    assert call.stream
    extra["top_k"], metadata["run"] = 2, 2
    assert (call.extra, call.metadata) == ({"top_k": 1}, {"run": 1})


LISTED = (*MODES, "batch", "abatch", "answer_each", "compare", "acompare", "route")
EMBED = ("embed", "aembed")


async def called(llm: LLMManager, name: str, **options: Any) -> None:
    """Calls a method of the manager, and reads what it returns."""
    positional = {"answer_each": (["hi"], lambda *_: None), "batch": (["hi"],), "abatch": (["hi"],)}
    more = {"models": ["fake"]} if "compare" in name else {}
    result = getattr(llm, name)("t", *positional.get(name, ("hi",)), **more, **options)
    if inspect.isawaitable(result):
        await result
    elif name == "stream":
        list(result)
    elif name == "astream":
        [piece async for piece in result]


@pytest.mark.parametrize("name", [*LISTED, *EMBED])
def test_a_signature_lists_every_option(name: str) -> None:
    options = EmbedOptions.__annotations__ if name in EMBED else {**CallOptions.__annotations__, "schema": None}
    parameters = inspect.signature(getattr(FakeLLM(), name)).parameters
    assert all(parameters[one].kind is inspect.Parameter.KEYWORD_ONLY for one in options)
    assert str(parameters["max_cost"].annotation) == "decimal.Decimal | float | str | None"
    assert {parameters[one].default for one in options} == ({None} if name in EMBED else {None, 0})
    assert not [one for one in parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]
    assert "max_cost" in pydoc.render_doc(getattr(LLMManager, name))


@pytest.mark.parametrize("name", [*LISTED, *EMBED])
async def test_an_unknown_option_is_refused(name: str) -> None:
    llm = FakeLLM(tasks=("t",))
    with pytest.raises(InvalidRequestError, match=r"unknown option 'max_costs'; did you mean `max_cost`\?"):
        await called(llm, name, max_costs=1)
    assert not llm.calls


@pytest.mark.parametrize("name", ["stream", "astream"])
async def test_a_stream_checks_its_arguments_at_the_call(name: str) -> None:
    with FakeLLM(tasks=("t",)) as llm:
        with pytest.raises(InvalidRequestError):
            getattr(llm, name)("t", "hi", max_tokens=0)
        with pytest.raises(UnknownTaskError):
            getattr(llm, name)("tt", "hi")
        getattr(llm, name)("t", "hi")
        assert llm.calls == []


def test_the_deadline_of_a_stream_counts_from_its_first_piece() -> None:
    with FakeLLM(tasks=("t",)) as llm:
        llm.reply("late")
        llm.complete("t", "hi")  # loads modules, which takes longer than a call
        stream = llm.stream("t", "hi", deadline=1.5)
        time.sleep(1.6)
        assert "".join(stream) == "late"


@pytest.mark.parametrize("name", LISTED)
async def test_the_methods_take_the_same_options(name: str) -> None:
    llm = FakeLLM(tasks=("t",))
    llm.reply('"yes"')
    options = {"system": "s", "max_tokens": 9, "temperature": 1, "stop": ".", "seed": 1, "cache": "off", "sample": 1,
               "max_cost": 1, "timeout": 5, "deadline": 60, "extra": {"top_k": 1}, "metadata": {"a": 1},
               "schema": {"type": "string"}, "accept": lambda _: True}  # fmt: skip
    assert {*options, "model"} == {*CallOptions.__annotations__, "schema"}
    await called(llm, name, **options)
    assert [call.max_tokens for call in llm.calls] == ([] if name == "route" else [9])


WRONG: dict[str, list[Any]] = {
    "max_tokens": [0, "many", True, 1.5],
    "temperature": [-0.1, float("nan"), float("inf"), "hot", True],
    "stop": [["a", ""], [1], 7, "\ud800"],
    "seed": [1.5],
    "cache": ["maybe", ["use"]],
    "sample": [-1, None],
    "max_cost": ["cheap", -0.01, float("nan"), float("inf"), True],
    "timeout": [0, "1m", True],
    "deadline": [0, float("inf")],
    "schema": [5, "int", ["a"]],
    "model": [3],
    "system": [3, "\udc80"],
    "extra": [["a"], {"max_tokens": 9}, {"options": {"num_ctx": 9}}],
    "metadata": ["run"],
}


@pytest.mark.parametrize(("name", "given"), [(name, given) for name, all_given in WRONG.items() for given in all_given])
def test_a_wrong_argument_is_named(name: str, given: Any) -> None:
    with pytest.raises(InvalidRequestError, match=name) as caught:
        build_call(PLAIN, "hi", **{name: given})
    said = str(caught.value)
    assert repr(given) in said or "surrogate" in said or re.search("holds '(max_tokens|options.num_ctx)'", said)


@pytest.mark.parametrize(("prompt", "named"), [
    (" \n", "empty"),
    ([], "prompt"),
    (TURN, "pass a list of messages"),
    (["hi"], "message 0"),
    ([{"role": "robot", "content": "hi"}], "robot"),
    ([Message(role="tool", content="hi")], "message 0 has role 'tool'"),  # type: ignore[arg-type]
    ([{"role": "user", "content": b"hi"}], "message 0"),
    ([{"role": "assistant", "content": "", "tool_calls": []}], "tool_calls"),
    ([{"role": "user", "content": [{"type": "text", "text": "a", "weight": 2}]}], "part 0 holds 'weight'"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "message 0, part 0"),
    ([{"role": "user", "content": [{"type": "text", "text": 3}]}], "message 0, part 0"),
    ("lone \ud800 surrogate", "character 5"),
    ([TURN, {"role": "user", "content": "\udfff"}], "message 1"),
])  # fmt: skip
def test_a_wrong_prompt_is_named(prompt: Any, named: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        build_call(PLAIN, prompt)
    assert named in str(caught.value)


def test_any_text_is_sent_unchanged() -> None:
    for text in ("a\x00b", "\u202e", "😀", "\r\n\t x"):
        assert build_call(PLAIN, text).messages[-1].content == text
    parts = ({"type": "text", "text": "a"}, {"type": "text", "text": "b"})
    call = build_call(PLAIN, [{"role": "system", "content": "s"}, {"role": "user", "content": parts}])
    assert [one.content for one in call.messages] == ["s", "ab"]


def test_a_message_is_accepted_like_a_mapping() -> None:
    turns = [{"role": "system", "content": "s"}, Message(role="user", content="hi")]
    assert [(one.role, one.content) for one in build_call(PLAIN, turns).messages] == [("system", "s"), ("user", "hi")]
    llm, mine = FakeLLM(), turns[1:]
    llm.reply("passed")
    llm.complete(None, mine)
    llm.batch(None, [mine, turns])
    assert len(llm.compare(None, mine, models=["fake"]).prompts) == 1
    assert len(llm.compare(None, [mine, turns], models=["fake"]).prompts) == 2
    assert llm.classify(None, mine, ["passed", "failed"], votes=1).label == "passed"
    assert [call.messages[-1].content for call in llm.calls][:6] == ["hi"] * 6


def _long_enough(answer: Any, *, least: int) -> bool:
    return len(answer.text) >= least


async def _coroutine(_answer: Any) -> bool:
    return False


@pytest.mark.parametrize(
    "accept",
    [lambda answer, least=3: True, functools.partial(_long_enough, least=3), bool, operator.attrgetter("text")],
)
def test_any_function_of_an_answer_can_be_accept(accept: Any) -> None:
    assert build_call(PLAIN, "hi", accept=accept).accept is accept


@pytest.mark.parametrize("accept", [lambda: True, _long_enough, "text", _coroutine, functools.partial(_coroutine)])
def test_a_function_with_other_arguments_is_refused(accept: Any) -> None:
    llm = FakeLLM(tasks=("t",))
    with pytest.raises(InvalidRequestError, match=r"^accept is .*expected a function of one argument, the Answer"):
        llm.complete("t", "hi", accept=accept)
    with pytest.raises(InvalidRequestError, match=r"^on_progress is .*expected a function of three arguments: done,"):
        llm.batch("t", ["hi"], on_progress=accept)
    with pytest.raises(InvalidRequestError, match=r"^on_answer is .*expected a function of two arguments"):
        llm.answer_each("t", ["hi"], accept)
    assert llm.calls == []


@pytest.mark.parametrize(
    ("texts", "named"),
    [([], r"texts is \[\]"), (["a", " "], "text 1"), (["a", 3], "text 1"), (["\ud800"], "text 0"), (3, "3")],
)
def test_wrong_texts_are_named(texts: Any, named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        FakeLLM(tasks=("t",)).embed("t", texts)


def test_a_private_task_checks_each_time_where_its_models_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with manager({"m": {"model": "ollama/qwen3:8b"}}, private=True) as llm:
        assert len(looked_up(llm).candidates) == 1
        monkeypatch.setenv("OLLAMA_API_BASE", "http://203.0.113.9:11434")
        assert looked_up(llm).candidates == ()
