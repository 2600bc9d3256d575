"""The servers that wires are recorded from. A replay starts none."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from fixtures_local import LocalModel
from gateway_kit import DEAD
from wire_proxy import WireProxy
from wires import Recording, Wire

from testronaut_llm.local.local_provider import EmbeddedRunner
from testronaut_llm.local.model_store import ModelStore

SMOLLM = "smollm2-135m"


class Servers:
    """Where each wire is reached, and with which key; in a replay nowhere, and with none that counts."""

    def __init__(self, stack: ExitStack, *, recording: bool) -> None:
        self._stack, self.recording = stack, recording
        self._runner: EmbeddedRunner | None = None
        self._proxies: dict[str, WireProxy] = {}
        self.settings = Recording.wanted()

    def reach(self, wire: Wire, *, embeddings: bool = False) -> tuple[str, str]:
        """`api_base` and key."""
        if not self.recording:
            return DEAD + wire.path, "a-key-of-no-account"
        if not wire.embedded:
            return self.settings.url, self.settings.key
        if self._runner is None:
            self._runner = EmbeddedRunner(ModelStore(Path(os.environ["RECORD_MODELS"])))
            self._stack.callback(self._runner.close)
        endpoint = self._runner.endpoint(LocalModel(name=SMOLLM), embeddings=embeddings)  # type: ignore[arg-type]
        if wire.provider != "azure":
            return endpoint.api_base.removesuffix("/v1") + wire.path, endpoint.token
        if endpoint.api_base not in self._proxies:
            self._proxies[endpoint.api_base] = self._stack.enter_context(WireProxy(endpoint.api_base))
        return self._proxies[endpoint.api_base].url, endpoint.token

    def model(self, wire: Wire, *, embeddings: bool = False) -> str:
        """The model's name on that server."""
        if wire.embedded:
            return SMOLLM
        return self.settings.embedding_model if embeddings else self.settings.model

    def described(self, wire: Wire) -> str:
        """The server and its version, for the note in a cassette."""
        if not wire.embedded:
            return f"{wire.server} {self.settings.server}".strip()
        from importlib.metadata import version

        return f"{wire.server} (xllamacpp {version('xllamacpp')}), serving SmolLM2-135M-Instruct Q4_1"
