"""Embedded models: a GGUF file served by llama.cpp in a child process on loopback, for as long as it is used.

The gateway talks to it as to any OpenAI-compatible server. Here the processes are started, shared and ended.
"""

from __future__ import annotations

import os
import re
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from testronaut_llm.config.local_options import sorted_options
from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import machine
from testronaut_llm.local.download import is_pinned, pull_again, size_of
from testronaut_llm.local.embedded_process import EmbeddedProcess, library_fault
from testronaut_llm.local.gguf_header import GgufHeader, read_header
from testronaut_llm.local.model_downloader import catalogue, fetch
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.providers.row import Missing, Present

IDLE_SECONDS, START_SECONDS, LEAST_IDLE = 300.0, 120.0, 2.0
"""How long an unused server stays, how long a load may take, and how long a caller has to send its request."""
INSTALL = 'pip install "testronaut-llm[embedded]"'
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Key = tuple[int, str, bool, int | None, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where an OpenAI-compatible server answers, and the token it wants as the API key."""

    api_base: str
    token: str = field(repr=False)


@dataclass(slots=True)
class _Server:
    """The server of one model, whether it runs or not. Belongs to the process that made it, not to its forks."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    process: EmbeddedProcess | None = None
    used: float = 0.0
    idle: float = IDLE_SECONDS
    timer: threading.Timer | None = None
    owner: int = field(default_factory=os.getpid)

    @property
    def running(self) -> EmbeddedProcess | None:
        return self.process if self.process and self.process.alive else None

    def stop(self) -> None:
        """Ends its process, if there is one; the caller holds the lock."""
        if self.process:
            self.process.stop()
            self.process = None

    def stop_later(self, seconds: float) -> None:
        """Looks after so many seconds whether it is idle; never if they are infinite."""
        if seconds != float("inf"):
            self.timer = threading.Timer(seconds, self._stop_if_expired)
            self.timer.daemon = True
            self.timer.start()

    def _stop_if_expired(self) -> None:
        with self.lock:
            if (process := self.running) is None:
                return
            left = self.used + self.idle - time.monotonic()
            if left <= 0 and process.busy():
                left = self.idle
            if left > 0:
                self.stop_later(left)
            else:
                self.stop()

    def stop_if_idle(self) -> bool:
        """Ends its process unless someone uses or starts it. True if it was ended."""
        if not self.lock.acquire(blocking=False):
            return False
        try:
            if (process := self.running) is None or process.busy():
                return False
            self.stop()
            return True
        finally:
            self.lock.release()


class EmbeddedRunner:
    """The embedded models of one manager. Safe across threads; a forked child starts its own servers.

    `idle_seconds` is how long an unused server stays, unless the model has a `keep_alive`.
    """

    def __init__(self, store: ModelStore | None = None, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._store, self._idle_seconds = store or ModelStore(), idle_seconds
        self._servers: dict[Key, _Server] = {}
        weakref.finalize(self, _stop_all, self._servers)  # at exit too, and when nobody holds the runner

    def endpoint(self, model: ModelConfig, *, embeddings: bool = False, slots: int = 1) -> Endpoint:
        """Returns where `model` answers; its server is started when it does not run. May block for seconds.

        `slots` is how many requests it answers at the same time, each with a context of its own.

        Raises:
            LocalModelError: not pulled, damaged, no room in memory, or llama.cpp cannot serve it; says how to fix it.
        """
        hardware = repr(sorted_options(model.extra)[1])
        server = self._servers.setdefault(
            (os.getpid(), model.name, embeddings, model.num_ctx, slots, hardware), _Server()
        )
        with server.lock:
            server.used, server.idle = time.monotonic(), _idle_seconds(model.keep_alive, self._idle_seconds)
            if (process := server.running) is None:
                server.stop()
                server.process = process = self._start(model, embeddings, slots)
                server.stop_later(server.idle)
            return Endpoint(api_base=f"{process.address}/v1", token=process.token)

    def load(self, model: ModelConfig, *, slots: int = 1) -> None:
        """Starts the server of `model` for what its file is made for, text or vectors. Raises as `endpoint` does."""
        vectors = self._store.get(model.name) and read_header(self._store.path(model.name)).pooling is not None
        self.endpoint(model, embeddings=bool(vectors), slots=slots)

    def crash(self, api_base: str) -> LocalModelError | None:
        """Returns why the server at `api_base` died, or None if it did not; for a connection to it that broke."""
        processes = [one.process for one in _mine(self._servers) if one.process]
        return next((process.crash() for process in processes if f"{process.address}/v1" == api_base), None)

    def memory(self) -> int:
        """Returns the bytes of memory that the running servers take."""
        import psutil

        found = 0
        for one in _mine(self._servers):
            with suppress(psutil.Error):
                found += psutil.Process(one.running.pid).memory_info().rss if one.running else 0
        return found

    def close(self) -> None:
        """Ends all servers. The runner can be used again."""
        _stop_all(self._servers)

    def _start(self, model: ModelConfig, embeddings: bool, slots: int) -> EmbeddedProcess:
        if isinstance(missing := embedded_missing(model, store=self._store), Missing):
            raise LocalModelError(f"embedded/{model.name}: {missing.what}: {missing.mend}", provider="embedded")
        if self._store.get(model.name) is None:
            fetch(model.name, store=self._store)
        process = EmbeddedProcess(model.name, self._settings(model, embeddings, slots))
        process.start(START_SECONDS)
        self._store.touch(model.name)
        return process

    def _settings(self, model: ModelConfig, embeddings: bool, slots: int) -> dict[str, Any]:
        path, stored = self._store.path(model.name), self._store.get(model.name)
        size, problem = size_of(path), ""
        if stored and size != stored.size:
            problem = f"has {size:,} bytes on disk and had {stored.size:,} when it was stored. Fetch it again"
        elif stored and not is_pinned(stored.sha256, model.digest):
            problem = f"has the sha256 {stored.sha256[:16]}..., and llm.yaml wants digest: {model.digest}. Correct the "
            problem += "line, or fetch the model again"
        if problem:
            raise LocalModelError(f"embedded/{model.name} {problem}: {pull_again(model.name)}", provider="embedded")
        header = read_header(path)
        context = self._context(replace(header, kv_bytes=header.kv_bytes * slots), model, embeddings)
        hardware, batch = sorted_options(model.extra)[1], machine.batch_size(context, embeddings=embeddings)
        return {
            "model": str(path),
            "context": context * slots,
            "slots": slots,
            "batch": batch if embeddings else min(context, hardware.get("num_batch") or batch),
            "threads": hardware.get("num_thread") or machine.threads(),
            "hardware": hardware,
            "embeddings": embeddings,
            "pooling": header.pooling,
        }

    def _context(self, header: GgufHeader, model: ModelConfig, embeddings: bool) -> int:
        """Returns the tokens of context that fit in memory; idle servers of other models are ended if necessary."""
        while True:
            try:
                return machine.fitting_context(
                    header, model.name, machine.available_memory(), wanted=model.num_ctx, embeddings=embeddings
                )
            except LocalModelError:
                if not any(one.stop_if_idle() for one in _mine(self._servers)):
                    raise


def embedded_missing(model: ModelConfig, *, store: ModelStore | None = None) -> Missing | Present | None:
    """Returns why an embedded model is not ready, or which one it is; None if a call will fetch it."""
    import importlib.util

    if importlib.util.find_spec("xllamacpp") is None:
        return Missing("the package xllamacpp is not installed", INSTALL)
    try:
        stored = (store or ModelStore()).get(model.name)
        if stored is None and not (model.auto_pull is True and model.name in catalogue()):
            pull = f"testronaut-llm models pull embedded/{model.name}"
            return Missing("the model is not on this machine", pull)
    except LocalModelError as error:
        return Missing(str(error))
    return library_fault() or (Present(stored.sha256) if stored else None)


def _idle_seconds(keep_alive: object, default: float) -> float:
    """Returns the seconds of Ollama's form of a duration ("10m", seconds, negative: for ever)."""
    if keep_alive is None:
        return default
    text = str(keep_alive).strip()
    if text.startswith("-"):
        return float("inf")
    parts = DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return max(LEAST_IDLE, sum(float(number) * SECONDS[unit] for number, unit in parts))
    return max(LEAST_IDLE, float(text)) if re.fullmatch(r"\d+(\.\d+)?", text) else default


def _mine(servers: Mapping[Key, _Server]) -> list[_Server]:
    """Returns the servers of this process. After a fork those of the parent are there too, perhaps locked for ever."""
    return [server for server in list(servers.values()) if server.owner == os.getpid()]


def _stop_all(servers: Mapping[Key, _Server]) -> None:
    for server in _mine(servers):
        with server.lock:
            if server.timer:
                server.timer.cancel()
            server.stop()
