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
from manager_kit import build_call, looked_up, manager

from testronaut_llm import CallOptions, EmbedOptions, LLMManager, Message
from testronaut_llm.config.model_config import TaskConfig
from testronaut_llm.errors import InvalidRequestError, UnknownTaskError
from testronaut_llm.options import takes
from testronaut_llm.prompts import texts_of
from testronaut_llm.testing.fake import FakeLLM

TASK = TaskConfig(name="t", models=("openai/x",), max_tokens=77, temperature=0.5, stop=("END",), seed=3,
                  system="Be brief.", timeout=9.0, deadline=99.0, retries=4, cache="off")  # fmt: skip
PLAIN = TaskConfig(name="t", models=("openai/x",))
TURN = {"role": "user", "content": "hi"}


def test_the_task_fills_in_what_the_caller_left_out() -> None:
    """Options that are not given have the values of the task in `llm.yaml`."""
    call = build_call(TASK, "hi")
    assert [(m.role, m.content) for m in call.messages] == [("system", "Be brief."), ("user", "hi")]
    assert (call.task, call.max_tokens, call.temperature, call.stop, call.seed) == ("t", 77, 0.5, ("END",), 3)
    assert (call.timeout, call.deadline, call.settings.retries, call.cache) == (9.0, 99.0, 4, "off")
    assert (call.output, call.accept, call.model, call.max_cost, call.stream) == (None, None, None, None, False)


def test_the_caller_overrides_the_task() -> None:
    """Each option wins over the task's setting, also if it is zero or empty."""
    call = build_call(
        TASK, [TURN], system="", max_tokens=5, temperature=0, stop=[], seed=0, cache="refresh", sample=2,
        max_cost=0, timeout=1, deadline=2, model="m", extra={"top_k": 1}, metadata={"run": 1}, stream=True,
    )  # fmt: skip
    assert [m.role for m in call.messages] == ["user"]
    assert (call.max_tokens, call.temperature, call.stop, call.seed) == (5, 0, (), 0)
    assert (call.cache, call.sample, call.max_cost, call.timeout, call.deadline) == ("refresh", 2, Decimal(0), 1.0, 2.0)
    assert (call.model, call.extra, call.metadata, call.stream) == ("m", {"top_k": 1}, {"run": 1}, True)


EACH = ("batch", "abatch", "answer_each")
LISTED = ("complete", "acomplete", "stream", "astream", *EACH, "compare", "acompare", "route")
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
    """`help()` and `inspect.signature` list every option with its type and default."""
    options = EmbedOptions if name in EMBED else CallOptions
    parameters = inspect.signature(getattr(FakeLLM(), name)).parameters
    wanted = [*options.__annotations__, *(() if name in EMBED else ("schema",))]
    assert all(parameters[one].kind is inspect.Parameter.KEYWORD_ONLY for one in wanted)
    assert str(parameters["max_cost"].annotation) == "decimal.Decimal | float | str | None"
    assert {parameters[one].default for one in wanted} == ({None} if name in EMBED else {None, 0})
    assert "self" not in parameters
    assert not [one for one in parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]
    assert "max_cost" in pydoc.render_doc(getattr(LLMManager, name))


@pytest.mark.parametrize("name", [*LISTED, *EMBED])
async def test_an_unknown_option_is_refused(name: str) -> None:
    """Every method names the unknown option and the closest known one, and sends nothing."""
    llm = FakeLLM(tasks=("t",))
    with pytest.raises(InvalidRequestError, match=r"unknown option 'max_costs'; did you mean `max_cost`\?"):
        await called(llm, name, max_costs=1)
    assert not llm.calls


@pytest.mark.parametrize("name", ["stream", "astream"])
@pytest.mark.parametrize(("task", "options"), [("t", {"max_costs": 1}), ("t", {"max_tokens": 0}), ("tt", {})])
async def test_a_stream_checks_its_arguments_at_the_call(name: str, task: str, options: dict[str, Any]) -> None:
    """A stream raises for wrong arguments when it is made, and sends nothing until its first piece is read."""
    with FakeLLM(tasks=("t",)) as llm:
        with pytest.raises((InvalidRequestError, UnknownTaskError)):
            getattr(llm, name)(task, "hi", **options)
        getattr(llm, name)("t", "hi")
        assert llm.calls == []


def test_the_deadline_of_a_stream_counts_from_its_first_piece() -> None:
    """A stream may be made long before it is read."""
    with FakeLLM(tasks=("t",)) as llm:
        llm.reply("late")
        stream = llm.stream("t", "hi", deadline=0.3)
        time.sleep(0.4)
        assert "".join(stream) == "late"


@pytest.mark.parametrize("name", LISTED)
async def test_the_methods_take_the_same_options(name: str) -> None:
    """The options of one call can be given to a dry run, a comparison or a batch unchanged."""
    llm = FakeLLM(tasks=("t",))
    llm.reply('"yes"')
    options = {"system": "s", "max_tokens": 9, "temperature": 1, "stop": ".", "seed": 1, "cache": "off", "sample": 1,
               "max_cost": 1, "timeout": 5, "deadline": 60, "extra": {"top_k": 1}, "metadata": {"a": 1},
               "schema": {"type": "string"}, "accept": lambda _: True}  # fmt: skip
    assert {*options, "model"} == {*CallOptions.__annotations__, "schema"}
    await called(llm, name, **options)
    assert [call.max_tokens for call in llm.calls] == ([] if name == "route" else [9])


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        *((name, {"temperature": 1}, "'temperature'") for name in EMBED),
        *((name, {"model": "fake"}, "`compare` asks each of `models`") for name in ("compare", "acompare")),
    ],
)
async def test_an_option_that_would_change_nothing_is_refused(name: str, given: dict[str, Any], says: str) -> None:
    """`embed` takes no option of a text, and `compare`, which names its models, no `model`."""
    with pytest.raises(InvalidRequestError, match=says):
        await called(FakeLLM(tasks=("t",)), name, **given)


WRONG: dict[str, list[Any]] = {
    "max_tokens": [0, -1, "many", True, 1.5],
    "temperature": [-0.1, float("nan"), float("inf"), "hot", True],
    "stop": ["", ["a", ""], [1], 7, "\ud800"],
    "seed": ["x", 1.5, True],
    "cache": ["maybe", ["use"]],
    "sample": [-1, None, 1.5],
    "max_cost": ["cheap", -0.01, float("nan"), float("inf"), True],
    "timeout": [0, -1, "1m", True, float("inf")],
    "deadline": [0, float("nan"), float("inf"), True],
    "schema": [5, "int", ["a"], 1.5],
    "model": [3],
    "accept": ["yes"],
    "system": [3, "\udc80"],
    "extra": [["a"], {"max_tokens": 9}, {"options": {"num_ctx": 9}}],
    "metadata": ["run", 1],
}


@pytest.mark.parametrize(("name", "given"), [(name, given) for name, all_given in WRONG.items() for given in all_given])
def test_a_wrong_argument_is_named(name: str, given: Any) -> None:
    """The error names the option, and what was given or what is wrong in it."""
    with pytest.raises(InvalidRequestError, match=name) as caught:
        build_call(PLAIN, "hi", **{name: given})
    said = str(caught.value)
    assert repr(given) in said or "surrogate" in said or re.search("holds '(max_tokens|options.num_ctx)'", said)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ([], "prompt"),
        (None, "prompt"),
        (3, "prompt"),
        (b"bytes", "prompt"),
        (TURN, "prompt"),
        (["hi"], "message 0"),
        ([TURN, {"content": "hi"}], "message 1"),
        ([{"role": "robot", "content": "hi"}], "robot"),
        ([{"role": ["user"], "content": "hi"}], "message 0"),
        ([{"role": "tool", "content": "hi"}], "tool"),
        ([{"role": "user"}], "message 0"),
        ([{"role": "user", "content": None}], "message 0"),
        ([{"role": "user", "content": b"hi"}], "message 0"),
        ([{"role": "assistant", "content": "", "tool_calls": []}], "tool_calls"),
        ([{"role": "user", "content": "hi", "name": "ann"}], "message 0 holds 'name'"),
        ([TURN, {"role": "user", "content": "hi", 3: 4}], "message 1 holds 3"),
        ([{"role": "user", "content": [{"type": "text", "text": "a", "weight": 2}]}], "part 0 holds 'weight'"),
        ([{"role": "user", "content": ""}], "empty"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "message 0, part 0"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}], "message 0, part 1"),
        ([{"role": "user", "content": [{"type": "text", "text": 3}]}], "message 0, part 0"),
        ("lone \ud800 surrogate", "character 5"),
        ([TURN, {"role": "user", "content": "\udfff"}], "message 1"),
        ([Message(role="tool", content="hi")], "message 0 has role 'tool'"),  # type: ignore[arg-type]
        ([TURN, Message(role="user", content=3)], "message 1 has content 3"),  # type: ignore[arg-type]
        (Message(role="user", content="hi"), "pass a list of messages"),
        ({"role": "user", "content": "hi"}, "pass a list of messages"),
    ],
)
def test_a_wrong_prompt_is_named(prompt: Any, named: str) -> None:
    """The error names the message and the part that are wrong."""
    with pytest.raises(InvalidRequestError) as caught:
        build_call(PLAIN, prompt)
    assert named in str(caught.value)


@pytest.mark.parametrize("text", ["a\x00b", "\u202e", "😀", "é", "x" * 100_000, "\r\n\t x", "{}", "</s>"])
def test_odd_text_is_sent_unchanged(text: str) -> None:
    """Any text that can be encoded is sent unchanged."""
    assert build_call(PLAIN, text).messages[-1].content == text


def test_text_parts_become_one_text() -> None:
    """Parts of text, in a list or a tuple, are joined."""
    parts = ({"type": "text", "text": "a"}, {"type": "text", "text": "b"})
    call = build_call(PLAIN, [{"role": "system", "content": "s"}, {"role": "user", "content": parts}])
    assert [m.content for m in call.messages] == ["s", "ab"]


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        *(("max_cost", amount, Decimal("0.05")) for amount in (0.05, "0.05", Decimal("0.05"))),
        ("stop", "END", ("END",)),
    ],
)
def test_a_value_may_be_given_in_several_forms(name: str, given: Any, value: Any) -> None:
    """A float of dollars is exact, and a single stop needs no list."""
    assert getattr(build_call(PLAIN, "hi", **{name: given}), name) == value


def test_a_message_is_accepted_like_a_mapping() -> None:
    """A `Message` is accepted like a mapping of OpenAI's form."""
    turns = [{"role": "system", "content": "s"}, Message(role="user", content="hi")]
    assert [(one.role, one.content) for one in build_call(PLAIN, turns).messages] == [("system", "s"), ("user", "hi")]
    llm = FakeLLM()
    llm.reply("passed")
    mine = turns[1:]
    llm.complete(None, mine)
    llm.batch(None, [mine, turns])
    assert len(llm.compare(None, mine, models=["fake"]).prompts) == 1
    assert len(llm.compare(None, [mine, turns], models=["fake"]).prompts) == 2
    assert llm.classify(None, mine, ["passed", "failed"], votes=1).label == "passed"
    assert [call.messages[-1].content for call in llm.calls][:6] == ["hi"] * 6


def _keyword(answer: Any, *, least: int) -> bool:
    return len(answer.text) >= least


async def _coroutine(_answer: Any) -> bool:
    return False


class _Coroutine:
    async def __call__(self, _answer: Any) -> bool:
        return False


@pytest.mark.parametrize(
    ("function", "arguments", "right"),
    [
        (lambda answer: True, 1, True),
        (lambda answer, least=3: True, 1, True),
        (lambda *_: True, 3, True),
        (functools.partial(_keyword, least=3), 1, True),
        (bool, 1, True),
        (print, 3, True),
        ("".startswith, 1, True),
        (operator.attrgetter("text"), 1, True),
        (lambda: True, 1, False),
        (lambda answer, other: True, 1, False),
        (lambda done, total: True, 3, False),
        (_keyword, 1, False),
        (_coroutine, 1, False),
        (functools.partial(_coroutine), 1, False),
        (_Coroutine(), 1, False),
        ("text", 1, False),
    ],
)
def test_the_arguments_of_a_function_are_counted(function: Any, arguments: int, right: bool) -> None:
    """`takes` is true for partials, bound methods and builtins that fit, and false for coroutine functions."""
    assert takes(function, arguments) is right


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("complete", {"accept": lambda: True}, "expected a function of one argument, the Answer"),
        ("acomplete", {"accept": _coroutine}, "expected a function of one argument, the Answer"),
        ("batch", {"accept": _keyword}, "expected a function of one argument, the Answer"),
        ("batch", {"on_progress": lambda done: None}, "expected a function of three arguments: done, total, result"),
        ("abatch", {"on_progress": 3}, "expected a function of three arguments: done, total, result"),
    ],
)
async def test_a_function_with_other_arguments_is_refused(name: str, given: dict[str, Any], words: str) -> None:
    """The error names the option and the arguments that it is called with; nothing is sent."""
    llm = FakeLLM(tasks=("t",))
    llm.reply("hi")
    with pytest.raises(InvalidRequestError, match=f"^{next(iter(given))} is .*{words}"):
        await called(llm, name, **given)
    with pytest.raises(InvalidRequestError, match=r"^on_answer is .*expected a function of two arguments"):
        llm.answer_each("t", ["hi"], lambda answer: None)  # type: ignore[arg-type, misc]
    assert llm.calls == []


def test_a_call_copies_its_mappings() -> None:
    """Later changes to the caller's mappings do not change the call."""
    extra, metadata = {"a": 1}, {"b": 1}
    call = build_call(PLAIN, "hi", extra=extra, metadata=metadata)
    extra["a"], metadata["b"] = 2, 2
    assert (call.extra, call.metadata) == ({"a": 1}, {"b": 1})


def test_texts_to_embed() -> None:
    """One text needs no list, and any iterable of texts is accepted."""
    assert texts_of("a") == ("a",)
    assert texts_of(iter(["a", "b\x00"])) == ("a", "b\x00")


@pytest.mark.parametrize(
    ("texts", "named"),
    [([], "texts is []"), ("", "text 0"), (["a", " "], "text 1"), (["a", 3], "text 1"), (["\ud800"], "text 0"),
     (3, "3"), (None, "None")],
)  # fmt: skip
def test_wrong_texts_are_named(texts: Any, named: str) -> None:
    """The error names the text that cannot be embedded."""
    with pytest.raises(InvalidRequestError) as caught:
        texts_of(texts)
    assert named in str(caught.value)


def test_a_private_task_checks_each_time_where_its_models_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Ollama that the environment moves to another host is no longer a candidate."""
    with manager({"m": {"model": "ollama/qwen3:8b"}}, private=True) as llm:
        assert len(looked_up(llm).candidates) == 1
        monkeypatch.setenv("OLLAMA_API_BASE", "http://203.0.113.9:11434")
        assert looked_up(llm).candidates == ()
