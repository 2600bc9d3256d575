"""What a real Ollama server answered to other clients' mistakes, given to us by the fault server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faults
import pytest
from attempts import attempt, chat, target
from fault_server import FaultServer

from testronaut_llm.errors import BadResponseError, InvalidRequestError, LLMError, ModelNotFoundError
from testronaut_llm.testing.cassette_format import from_yaml

EXCHANGES = from_yaml((Path(__file__).parents[1] / "support" / "data" / "ollama" / "exchanges.yaml").read_text())[
    "exchanges"
]
ANSWERED = {"chat-json", "unknown-option", "wrong-role"}
STREAMED = {"chat-stream-default", "bad-schema-stream"}
LISTS_NOTHING = {"embed-empty-list"}
KINDS: dict[str, type[LLMError]] = {
    "anthropic-missing-model-404": ModelNotFoundError,
    "unknown-path-404": ModelNotFoundError,
    "load": BadResponseError,
    "unload": BadResponseError,
}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.mark.parametrize("name", sorted(set(EXCHANGES) - LISTS_NOTHING))
async def test_an_odd_answer_is_an_error_or_an_answer(server: FaultServer, name: str) -> None:
    """Each is one request and one error of ours, in the server's words; what is an answer after all is taken as one."""
    api = server.plan("ollama", faults.recorded(name))
    asked = chat(target("ollama/llama-a", api_base=api.url, key=None), "?", num_ctx=2048, stream=name in STREAMED)
    _, reply = await attempt(asked)
    assert len(api.requests) == 1
    if name in ANSWERED or name == "chat-stream-default":
        assert reply.error is None
        assert reply.text
        return
    assert type(reply.error) is KINDS.get(name, InvalidRequestError)
    assert reply.error.status == EXCHANGES[name]["response"]["status"]
