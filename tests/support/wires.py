"""The wires that cassettes are recorded over, their servers, and why a mode has no recording.

A replay starts no server; `scripts/record.py` starts or finds them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fixtures_local import LocalModel
from gateway_kit import DEAD
from wire_proxy import WireProxy

from testronaut_llm.local.local_provider import EmbeddedRunner
from testronaut_llm.local.model_store import ModelStore

FOLDER = Path(__file__).parents[2] / "cassettes" / "wires"
SMOLLM = "smollm2-135m"
KINDS = ("text", "stream", "schema", "embeddings", "truncated", "too_long", "wrong_key", "missing_model")


@dataclass(frozen=True)
class Wire:
    name: str
    provider: str
    server: str
    path: str = ""  # follows the server's URL in `api_base`
    api_version: str | None = None
    gaps: Mapping[str, str] = field(default_factory=dict)  # why a mode has no recording

    @property
    def embedded(self) -> bool:
        return self.name.startswith("llama.cpp")


_NAMED = {"missing_model": "llama.cpp answers any model name with its one model"}
_PAID = {"too_long": "a prompt that fills a paid model's window is not worth its price; the fault server has the body"}
_NO_EMBEDDINGS = {"embeddings": "the Anthropic wire has no embeddings"}
_NOT_ANTHROPIC = {**_NO_EMBEDDINGS, "schema": "llama.cpp's Anthropic wire takes no schema"}
_CHECKED = dict.fromkeys(("too_long", "missing_model"), "our own check stops it before it is sent")
_OLLAMA = {"wrong_key": "Ollama checks no key", **_CHECKED}
_LLAMA = "llama.cpp behind a proxy that gives it Azure's"
SERVED = (
    Wire("llama.cpp-openai", "openai", "llama.cpp, its OpenAI wire", "/v1", gaps=_NAMED),
    Wire("llama.cpp-anthropic", "anthropic", "llama.cpp, its Anthropic wire", gaps=_NAMED | _NOT_ANTHROPIC),
    Wire("llama.cpp-azure-classic", "azure", f"{_LLAMA} classic URLs", api_version="2024-10-21", gaps=_NAMED),
    Wire("llama.cpp-azure-v1", "azure", f"{_LLAMA} v1 URLs", api_version="v1", gaps=_NAMED),
    Wire("ollama", "ollama", "Ollama", gaps=_OLLAMA),
    Wire("openai", "openai", "OpenAI", "/v1", gaps=_PAID),
    Wire("anthropic", "anthropic", "Anthropic", gaps=_NO_EMBEDDINGS | _PAID),
    Wire("azure", "azure", "Azure OpenAI", gaps=_PAID),
)


_NAMES = ("wires", "url", "key", "model", "embedding_model", "api_version", "server")
_WANTED = SimpleNamespace(**{name: os.environ.get(f"RECORD_{name.upper()}", "") for name in _NAMES})
"""The servers to record from, which `record.py` passes in the environment; empty in a replay."""


def cases(mode: str) -> list[Any]:
    """The wires to test in this mode: those with a recording, or those that are to be recorded now."""
    found = []
    for wire in SERVED:
        can_embed = mode != "embeddings" or wire.embedded or _WANTED.embedding_model
        to_record = wire.name in _WANTED.wires.split() and mode not in wire.gaps and can_embed
        if to_record or (not _WANTED.wires and (FOLDER / wire.name / f"{mode}.yaml").exists()):
            cassette = pytest.mark.llm_cassette(f"wires/{wire.name}/{mode}")
            found.append(pytest.param(wire, id=wire.name, marks=cassette))
    return found


class Servers:
    settings = _WANTED

    def __init__(self, stack: ExitStack, *, recording: bool) -> None:
        self._stack, self.recording = stack, recording
        self._runner: EmbeddedRunner | None = None

    def reach(self, wire: Wire, *, embeddings: bool = False) -> tuple[str, str]:
        """Returns `api_base` and key; a replay has no server, and a dummy key."""
        if not self.recording:
            return DEAD + wire.path, "a-key-of-no-account"
        if not wire.embedded:
            return self.settings.url, self.settings.key
        if self._runner is None:
            self._runner = EmbeddedRunner(ModelStore(Path(os.environ["RECORD_MODELS"])))
            self._stack.callback(self._runner.close)
        endpoint = self._runner.endpoint(LocalModel(name=SMOLLM), embeddings=embeddings)
        if wire.provider != "azure":
            return endpoint.api_base.removesuffix("/v1") + wire.path, endpoint.token
        return self._stack.enter_context(WireProxy(endpoint.api_base)).url, endpoint.token

    def model(self, wire: Wire, *, embeddings: bool = False) -> str:
        if wire.embedded:
            return SMOLLM
        return self.settings.embedding_model if embeddings else self.settings.model

    def described(self, wire: Wire) -> str:
        """The server and its version, for the note in a cassette."""
        if not wire.embedded:
            return f"{wire.server} {self.settings.server}".strip()
        return f"{wire.server} (xllamacpp {version('xllamacpp')}), serving SmolLM2-135M-Instruct Q4_1"
