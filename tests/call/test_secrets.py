"""Secrets in prompts stay on this machine: models get placeholders, and the caller gets the secrets back."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import faults
import pytest
from fault_server import Exchange
from hypothesis import given
from hypothesis import strategies as st
from manager_kit import MODES, Make, ask, config, manager, model
from planted_secrets import harmless, planted, texts
from pydantic import BaseModel, Field

from testronaut_llm import LLMManager
from testronaut_llm.config.sections import LogConfig
from testronaut_llm.errors import AllModelsFailedError, SecretInPromptError
from testronaut_llm.masking import Masking, Pieces, masked, secrets_in
from testronaut_llm.support.paths import cache_dir

pytestmark = pytest.mark.usefixtures("provider_keys")

TOKEN, OTHER = "ghp_a1ZkQ7vR2mXp9LdW4sYc8TbN6hGj3FeU5oKi", "ghp_ZZZkQ7vR2mXp9LdW4sYc8TbN6hGj3FeU5999"
KEY_FILE = '-----BEGIN PRIVATE KEY-----\nMIIEabc"d\n-----END PRIVATE KEY-----'


def repeat(exchange: Exchange) -> None:
    """Answers with the last message; a stream in pieces that cut some placeholders."""
    said = exchange.request.body["messages"][-1]["content"]
    text = said if isinstance(said, str) else "".join(part["text"] for part in said)
    faults.good(text, pieces=max(1, len(text) // 40))(exchange)


def remote(wire: str, api: Any) -> dict[str, Any]:
    """A row whose model is not local, though its server is on this machine."""
    return model(wire, api, local=False)


def leaked(secrets: Iterable[str], sent: Iterable[bytes]) -> list[str]:
    """Returns the secrets that the sent text holds, plain or in JSON."""
    whole = b"\n".join(sent).decode()
    return [one for one in secrets if one in whole or json.dumps(one)[1:-1] in whole]


WAYS = [("openai", mode) for mode in ("batch", *MODES, "embed")]
WAYS += [("anthropic", "complete"), ("ollama", "complete"), ("ollama", "embed")]
"""Secrets are masked before a wire is chosen: one wire is tried in every mode."""


@pytest.mark.parametrize(("wire", "mode"), WAYS)
async def test_no_planted_secret_reaches_a_server(api: Make, wire: str, mode: str) -> None:
    a, found = api("a", faults.good(vectors=((0.5, 0.25),)) if mode == "embed" else repeat), planted()
    assert len({secret for one in found for secret in one.secrets}) == 500
    every = found if mode == "batch" else found[:34]  # a secret of each kind
    prompts, system = [one.text for one in every], f"The token is {TOKEN}."
    async with manager({"m": remote(wire, a)}, max_tokens=4000) as llm:
        if mode == "embed":
            found_of = [llm.embed("t", prompt).masked for prompt in prompts]
        else:
            if mode == "batch":
                answers: list[Any] = llm.batch("t", prompts, system=system)
            else:
                answers = [await ask(llm, mode, prompt, system=system) for prompt in prompts]
            assert [answer.text for answer in answers] == prompts
            found_of = [answer.masked - 1 for answer in answers]  # one is in the system text
    assert all(count >= len(one.secrets) for count, one in zip(found_of, every, strict=True))
    assert len(a.asked) == len(every)
    assert leaked([*(one for each in every for one in each.secrets), TOKEN], [one.raw for one in a.asked]) == []


def test_what_is_no_secret_is_sent_unchanged() -> None:
    """At most 1 % of texts without secrets are changed, with or without digests, UUIDs and pictures in them."""
    manuals = ("--password=<password> database1", "usage: <password> <file1name>", "password > hunter2x")
    for each in (texts(), harmless(), manuals):
        found = [[text[start:end] for start, end, _ in secrets_in(text)] for text in each]
        assert sum(map(bool, found)) <= len(found) / 100, found


def test_the_same_secret_has_one_placeholder_and_the_callers_own_words_stay() -> None:
    prompts = [f"{TOKEN} and {OTHER}, {TOKEN}", f"<secret-2> password='{OTHER}'"]
    hidden, masking = masked(prompts)
    assert hidden == ("<secret-1> and <secret-3>, <secret-1>", "<secret-2> password='<secret-3>'")
    assert (masking.count, [masking.restore(one) for one in hidden]) == (4, prompts)
    assert TOKEN not in repr(masking)


def test_values_of_secret_variables_are_masked_as_they_are_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a name counts as a word; values are stripped, and short ones are not masked."""
    names = ("MY_API_KEY", "TOKEN_2", "DB_PASS", "MYSQL_PWD", "ADMIN_PASSWORD")
    secret, others = ([f"value of {name}" for name in each] for each in (names, ("MY_COMPASS", "OLDPWD", "MY_PLACE")))
    for value in (*secret, *others):
        monkeypatch.setenv(value.removeprefix("value of "), f" {value}\n")
    monkeypatch.setenv("A_TOKEN", "short")
    monkeypatch.setenv("B_TOKEN", " " * 12)
    plain = (f"short{' ' * 20}", *others)
    assert masked([*plain, *secret])[0] == (*plain, *(f"<secret-{number}>" for number in range(1, 6)))
    monkeypatch.setenv("DB_PASS", "a later value")
    monkeypatch.delenv("TOKEN_2")
    assert masked(["a later value", *secret[:3]])[0] == ("<secret-1>", "<secret-2>", *secret[1:3])


WRITTEN: dict[str, Callable[[str], str]] = {
    "JSON": lambda text: json.dumps({"t": text}),
    "JSON in JSON": lambda text: json.dumps({"log": json.dumps({"t": text})}),
    "URL": lambda text: quote(text, safe=""),
    "base64 without padding": lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 of a line": lambda text: base64.b64encode(f"{text}\n".encode()).decode(),
    "base64 of user and password": lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
}


@pytest.mark.parametrize("value", ['multi/line"tok-\n99', "plain-tok-???>>>"])
@pytest.mark.parametrize("form", WRITTEN)
def test_a_variable_is_found_however_it_is_written(monkeypatch: pytest.MonkeyPatch, form: str, value: str) -> None:
    monkeypatch.setenv("MY_TOKEN", value)
    written = WRITTEN[form](value)
    text = f"raw {value} and {written}"
    (sent,), masking = masked([text])
    assert "tok-" not in sent
    assert written not in sent
    assert masking.restore(sent) == text


@pytest.mark.parametrize("text", [
    '{\\"password\\": \\"{}\\"}',
    "DB_PASS={}",
    "<db:apiKey>{}</db:apiKey>",
    ":password => '{}'",
    '"secret"=>"{}",',
])  # fmt: skip
def test_a_named_value_is_found_as_logs_xml_and_hashes_write_it(text: str) -> None:
    assert masked([text.replace("{}", "hunter2hunter2")])[0] == (text.replace("{}", "<secret-1>"),)


@pytest.mark.parametrize(("last", "as_json"), [("<secret-12>", False), (r"\u003csecret-12\u003E", True)])
@given(st.lists(st.integers(1, 12), min_size=1), st.text("<secrt-12> x\\u03cE", max_size=40))
def test_a_stream_restores_a_placeholder_wherever_it_is_cut(
    last: str, as_json: bool, sizes: list[int], noise: str
) -> None:
    masking = Masking({"<secret-1>": "one", "<secret-12>": "twelve"}, 2)
    text, pieces, said, at = f"a<secret-1>{noise}{last}{noise}", Pieces(masking, as_json=as_json), "", 0
    while at < len(text):
        size = sizes[at % len(sizes)]
        said += pieces.add(text[at : at + size])
        at += size
        assert len(pieces._held) < len(last)
    assert said + pieces.end() == masking.restore(text, as_json=as_json)


class Found(BaseModel):
    token: str = Field(pattern="^ghp_")
    key: str


@pytest.mark.parametrize(("mode", "second"), [("complete", "<secret-2>"), ("astream", r"\u003csecret-2\u003E")])
async def test_parsed_text_and_accept_get_the_originals(api: Make, mode: str, second: str) -> None:
    """Some models write `<` and `>` as escapes."""
    a = api("a", faults.good(f'{{"token": "<secret-1>", "key": "{second}"}}', pieces=15))
    seen: list[Any] = []
    async with manager({"m": remote("openai", a)}) as llm:
        prompt = f"{TOKEN}\n{KEY_FILE}"
        answer = await ask(llm, mode, prompt, schema=Found, accept=lambda one: bool(seen.append(one.text) or True))
    assert answer.parsed == Found(token=TOKEN, key=KEY_FILE)
    assert json.loads(answer.text) == {"token": TOKEN, "key": KEY_FILE}
    assert (seen, answer.masked) == ([answer.text], 2)


@pytest.mark.parametrize("mode", ["complete", "astream"])
async def test_another_secret_hits_the_same_entry(api: Make, tmp_path: Path, mode: str) -> None:
    a, log = api("a", repeat), tmp_path / "events.jsonl"
    settings = config({"m": remote("openai", a)}, cache="use")
    settings = settings.model_copy(update={"log": LogConfig(file=str(log), content=True)})
    async with LLMManager(config=settings) as llm:
        for number, token in enumerate((TOKEN, OTHER, TOKEN)):
            answer = await ask(llm, mode, f"keep {token} {mode}")
            assert (answer.text, answer.cached, answer.masked) == (f"keep {token} {mode}", number > 0, 1)
    stored = b"".join(file.read_bytes() for file in (cache_dir() / "answers").rglob("*") if file.is_file())
    assert b"keep <secret-1>" in stored
    written = [stored.decode("latin-1").encode(), log.read_bytes(), *(one.raw for one in a.asked)]
    assert leaked([TOKEN, OTHER], written) == []
    assert len(a.asked) == 1


async def test_equal_texts_to_embed_share_a_vector(api: Make) -> None:
    a = api("a", faults.good(vectors=((0.5, 0.25),)))
    async with manager({"m": remote("openai", a)}, cache="use") as llm:
        both = llm.embed("t", [f"log in with {TOKEN}", f"log in with {OTHER}"])
        again = await llm.aembed("t", f"log in with {OTHER}")
    assert both.vectors == ((0.5, 0.25), (0.5, 0.25))
    assert (both.masked, again.masked, again.cached, len(a.asked)) == (2, 1, True, 1)


async def test_a_local_model_sees_the_originals_and_the_next_does_not(api: Make) -> None:
    near = api("near", faults.good(f'{{"token": 5, "key": "{TOKEN}"}}'))
    far = api("far", faults.good('{"token": "<secret-1>", "key": "k"}'))
    async with manager({"near": model("ollama", near), "far": remote("openai", far)}) as llm:
        answer = await llm.acomplete("t", f"Who has {TOKEN}?", schema=Found)
    assert answer.parsed == Found(token=TOKEN, key="k")
    assert TOKEN in str(near.bodies)
    assert leaked([TOKEN], [one.raw for one in far.asked]) == []
    errors = [one.error for one in answer.attempts if one.error is not None]
    assert errors
    assert TOKEN not in "".join(f"{error} {error.text}" for error in errors)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("task", "file", "sent"), [
    (None, None, {"near": TOKEN, "far": "<secret-1>"}),
    ("allow", "refuse", {"near": TOKEN, "far": TOKEN}),
    (None, "allow", {"near": TOKEN, "far": TOKEN}),
    ("mask", "allow", {"near": "<secret-1>", "far": "<secret-1>"}),
])  # fmt: skip
async def test_the_setting_of_the_task_goes_before_that_of_the_file(
    api: Make, task: Any, file: Any, sent: dict[str, str]
) -> None:
    asked = {"near": api("near", repeat), "far": api("far", repeat)}
    rows = {"near": model("ollama", asked["near"]), "far": remote("openai", asked["far"])}
    settings = config(rows, secrets=task).model_copy(update={"secrets": file})
    async with LLMManager(config=settings) as llm:
        for name, seen in sent.items():
            answer = await llm.acomplete("t", TOKEN, model=name)
            assert (answer.text, answer.masked) == (TOKEN, seen != TOKEN)
            assert asked[name].bodies[0]["messages"][-1]["content"] == seen
        assert [one.secrets for one in llm.route("t", TOKEN).candidates] == [
            "allow" if seen == TOKEN else "mask" for seen in sent.values()
        ]


@pytest.mark.parametrize("mode", ["complete", "astream", "aembed", "aclassify"])
async def test_refuse_names_kind_and_place_and_never_the_value(api: Make, mode: str) -> None:
    a, prompt = api("a", faults.good()), f"first line\ntoken {TOKEN}"
    labels = [["yes", "no"]] if mode == "aclassify" else []
    async with manager({"m": remote("openai", a)}, secrets="refuse") as llm:
        assert llm.route("t", "no secret").kept
        with pytest.raises(SecretInPromptError):
            llm.route("t", prompt)
        with pytest.raises(SecretInPromptError, match=r"\(GitHub token\): .*line 2, character 7") as raised:
            await (ask(llm, mode, prompt) if mode in MODES else getattr(llm, mode)("t", prompt, *labels))
        (refused,) = llm.batch("t", [prompt]) if mode == "complete" else [raised.value]
    assert TOKEN not in f"{raised.value!r} {refused!r}"
    assert (type(refused), a.asked) == (SecretInPromptError, [])


async def test_a_failed_answer_keeps_the_placeholders(api: Make) -> None:
    a = api("a", faults.good(f"<secret-1> is no JSON, nor is {OTHER}"))
    async with manager({"m": remote("openai", a)}, retries=0) as llm:
        with pytest.raises(AllModelsFailedError) as raised:
            await llm.acomplete("t", f"{TOKEN} {OTHER}", schema=Found)
    assert "<secret-1>" in str(raised.value.last)
    assert leaked([TOKEN, OTHER], [repr(raised.value).encode(), raised.value.last.text.encode()]) == []  # type: ignore[union-attr]
