"""Each fault of a server, on each wire, in a complete call with a second model as fallback."""

from __future__ import annotations

import itertools
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import faults
import pytest
from fault_server import refused
from fault_table import FAULTS, HANGS, STREAMS, Fault, cells
from manager_kit import Api, Make, ask, booked, manager, model

from testronaut_llm import LLMManager, errors
from testronaut_llm.errors import Verdict
from testronaut_llm.local.local_provider import EmbeddedRunner, Endpoint
from testronaut_llm.routing import retry as fallback

pytestmark = pytest.mark.usefixtures("provider_keys")

SECOND = "Text of the second model."
RETRIES, TIMEOUT, SHORT_TIMEOUT, DEADLINE = 1, 10.0, 0.4, 60.0
_BUDGETS = itertools.count()
BILLED = Decimal("0.000024")  # of an answer of no use that reports its tokens
LOCAL = ("ollama", "embedded")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home for all cells; each has its own budget and prompt."""
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(autouse=True)
def _surroundings(_own_folders: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sets the shared home, short waits and one unknown host name; no threads pile up."""

    def look_up(host: Any, *arguments: Any, **named: Any) -> Any:
        if str(host).rstrip("'").endswith("llm.invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **named)

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(fallback, "FIRST_WAIT", 0.002)
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(home))
    yield
    names = [thread.name for thread in threading.enumerate()]
    ours = [name for name in names if not name.startswith("litellm-logging")]  # LiteLLM keeps up to a hundred of those
    assert len(ours) < 50, sorted(ours)


def _managed(api: Make, fault: Fault, name: str, wire: str) -> tuple[LLMManager, Api, Api, Api]:
    """A manager of both models, and the servers of the first, of the second, and of a redirect."""
    a, b, elsewhere = api("a", *([fault.reply] if fault.reply else [])), api("b", faults.good(SECOND)), api("c")
    elsewhere.plan(faults.good("Text of a stranger."))
    if name == "redirect":
        a.plan(faults.redirect(elsewhere.url))
    url = fault.url or (refused() if name == "refused" else a.url)
    row = model("openai", "") if wire == "embedded" else model(wire, url)
    if wire == "embedded":
        row = {"model": "embedded/smollm2-135m", "auto_pull": True, "context_window": 8192}
    models = {"a": row, "b": model("openai", b, context_window=100_000)}
    limit = SHORT_TIMEOUT if name in HANGS else TIMEOUT
    task = {"cache": "use", "retries": RETRIES, "timeout": limit, "deadline": DEADLINE, "max_tokens": 50}
    budget = {"scope": f"matrix {next(_BUDGETS)}", "per_call": 1, "per_day": 5}
    made = manager(models, budget=budget, **task)
    if wire == "embedded":
        runner = made._caller.services.local.runner = Mock(EmbeddedRunner)  # the fault server is its child process
        runner.endpoint.return_value = Endpoint(api_base=f"{url}/v1", token="token")
        runner.crash.return_value = None
    return made, a, b, elsewhere


async def _asked(llm: LLMManager, mode: str, prompt: str) -> tuple[str, Any, errors.LLMError | None]:
    """The pieces that the caller saw, the answer and the error."""
    pieces: list[str] = []
    try:
        if mode == "stream":
            with llm.stream("t", prompt) as stream:
                pieces.extend(stream)
                return "".join(pieces), stream.answer, None
        if mode == "astream":
            async with llm.astream("t", prompt) as astream:
                async for piece in astream:
                    pieces += [piece]
                return "".join(pieces), astream.answer, None
        return "", await ask(llm, mode, prompt), None
    except errors.LLMError as error:
        return "".join(pieces), None, error


def _requests(first: errors.LLMError, fault: Fault, wire: str, *, delivered: bool) -> int:
    """Number of requests that the first model gets, by the verdict of its error."""
    too_long = fault.waits > fallback.LONGEST_WAIT * 4
    local_timeout = wire in LOCAL and isinstance(first, errors.LLMTimeoutError)
    again = first.verdict is Verdict.RETRY and not delivered and not too_long and not local_timeout
    return 1 + RETRIES * again


@pytest.mark.parametrize(("name", "wire", "mode"), cells())
async def test_every_fault_on_every_wire(api: Make, name: str, wire: str, mode: str) -> None:
    """A fault becomes its error, is paid as billed, is not cached, and the right model is asked next."""
    fault, prompt = FAULTS[name], f"{name}, {wire}, {mode}"
    llm, a, b, elsewhere = _managed(api, fault, name, wire)
    async with llm:
        free = wire in LOCAL or name[:3].isdigit() or fault.url is not None or name == "refused"
        bills = {Decimal(0)} if free else {BILLED, llm.route("t", prompt, model="a").kept[0].worst_cost}
        began = time.monotonic()
        pieces, answer, error = await _asked(llm, mode, prompt)
        assert time.monotonic() - began < DEADLINE + 1
        attempts = answer.attempts if answer is not None else error.attempts if error is not None else ()
        mine = [one for one in attempts if one.model == "a"]
        first = mine[0].error
        assert first is not None
        assert type(first) in fault.classes(wire, mode)
        assert not name.isdigit() or first.status == int(name)
        unpickled = pickle.loads(pickle.dumps(error or first))
        assert repr((unpickled, vars(unpickled))) == repr((error or first, vars(error or first)))
        assert name != "redirect" or "api_base" in str(first)
        if name == "refused" and wire not in LOCAL:
            assert str(llm.config.models["a"].api_base).removesuffix("/v1") in str(first)
        # Text that was handed out ends the call; whether a broken connection still delivers some depends on the kernel.
        delivered = bool(pieces) and pieces != SECOND
        assert not delivered or fault.after_pieces
        stopped = first.verdict is Verdict.STOP or delivered
        expected = _requests(first, fault, wire, delivered=delivered)
        assert len(mine) == expected
        if fault.reply is not None or name == "redirect":
            assert len(a.asked) == expected
        assert (len(b.asked), answer is None) == ((0, True) if stopped else (1, False)), (attempts, error)
        if stopped:
            assert type(error) is type(first)
            assert delivered or pieces == ""
        else:
            assert (answer.text, answer.model) == (SECOND, "b")
            assert pieces == (SECOND if mode in STREAMS else "")
        gaps = [second.at - one.at for one, second in itertools.pairwise(a.asked)]
        assert all(gap >= fault.waits * 0.99 for gap in gaps)
        assert elsewhere.asked == []
        assert bills >= {one.cost for one in mine}
        _, unsettled, spent = booked(llm)
        assert (unsettled, spent) == (0, sum((one.cost or Decimal(0) for one in attempts), Decimal(0)))
        with pytest.raises(errors.CacheMissError) if stopped else nullcontext():
            assert (await llm.acomplete("t", prompt, cache="only")).text == SECOND
