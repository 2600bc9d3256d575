"""Embedded models: a pool of llama.cpp servers, each a child process on loopback."""

import json
import os
import secrets
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

from testronaut_llm.config.extra_fields import sorted_options
from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import embedded_child, machine
from testronaut_llm.local.download import is_pinned, reported
from testronaut_llm.local.machine import GgufHeader, pull_again, read_header
from testronaut_llm.local.model_downloader import fetch
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.local.readiness import embedded_missing
from testronaut_llm.providers.network import client_settings
from testronaut_llm.providers.provider import Missing, pull_command
from testronaut_llm.support.paths import size_of
from testronaut_llm.support.text import seconds_of

IDLE_SECONDS, START_SECONDS, LEAST_IDLE = 300.0, 120.0, 2.0
"""Seconds: an unused server stays, a load may take, and a caller has to send its request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """URL of an OpenAI-compatible server, and the token that is its API key."""

    api_base: str
    token: str = field(repr=False)


class EmbeddedProcess:
    """One child process, with `settings` as `embedded_child` reads them. Only `token` gets an answer at `address`."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.name, self.settings = name, settings
        self.token, self.address = secrets.token_urlsafe(24), ""
        self.used, self.idle = time.monotonic(), IDLE_SECONDS
        self.timer: threading.Timer | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._output: deque[str] = deque(maxlen=40)
        self._settled, self._stopped = threading.Event(), False
        self._reader = threading.Thread(target=self._read, name=f"embedded-{name}", daemon=True)

    def start(self, timeout: float) -> None:
        """Waits until the model is loaded. Raises LocalModelError after `timeout` seconds."""
        command, variables = [sys.executable, "-P", embedded_child.__file__], embedded_child.environment()
        pipes: dict[str, Any] = {"stdin": PIPE, "stdout": PIPE, "stderr": STDOUT, "bufsize": 0}
        try:  # in its own session, so that Ctrl-C in the terminal reaches only the parent
            self._process = subprocess.Popen(command, env=variables, start_new_session=True, **pipes)  # noqa: S603
            self._reader.start()
            settings = {**self.settings, "token": self.token, "parent": os.getpid()}
            with suppress(BrokenPipeError, ValueError):  # it has ended, or `stop` closed the pipe
                self._process.stdin.write(json.dumps(settings).encode() + b"\n")  # type: ignore[union-attr]
            in_time = self._settled.wait(timeout)
            reason = f"its process {self._end(slice(2))}" if in_time else f"it was not ready after {timeout:g} s"
        except OSError as error:
            reason = str(error)
        if not self.address:
            self.stop()
            file = f"The file: {self.settings['model']}. If it is damaged: {pull_again(self.name)}"
            raise _error(self.name, f"could not be started: {reason}. {file}")

    @property
    def alive(self) -> bool:
        """True if the model is loaded, and the process runs and is not being stopped."""
        process = self._process
        return process is not None and self.address != "" and not self._stopped and process.poll() is None

    def busy(self) -> bool:
        """True if a request is being computed, or if the server does not answer at once."""
        import httpx

        key = {"Authorization": f"Bearer {self.token}"}
        try:
            slots = httpx.get(f"{self.address}/slots", headers=key, timeout=2, **client_settings(self.address)).json()
        except httpx.HTTPError:
            return True
        return any(slot["is_processing"] for slot in slots)

    def crash(self, patience: float = 1.0) -> LocalModelError | None:
        """Returns why the process died, or None if it did not; waits up to `patience` seconds for its end."""
        self._reader.join(patience)
        if self.alive or self._stopped:
            return None
        fix = (
            "The next call starts it again. If that repeats, set a smaller num_ctx in llm.yaml, or name a smaller model"
        )
        return _error(self.name, f"was being served when the process {self._end(slice(-2, None))}. {fix}")

    def stop(self) -> None:
        """Ends the process; a request that it computes is lost."""
        self._stopped = True
        if self.timer:
            self.timer.cancel()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                self._process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._reader.join(timeout=5)

    def _read(self) -> None:
        """Reads the address and the output of the process, to its end."""
        assert self._process and self._process.stdout  # noqa: S101, PT018 - it was just started
        with self._process:  # closes its pipes, and waits for its end
            while line := self._process.stdout.readline(1000):
                text = line.decode("utf-8", "replace").rstrip().replace(self.token, "***")
                if text.startswith(embedded_child.READY):
                    self.address = text.removeprefix(embedded_child.READY)
                    self._settled.set()
                elif text:
                    self._output.append(text)
        self._settled.set()

    def _end(self, lines: slice) -> str:
        """Returns how the process ended, with these lines of its output; the first ones explain a failed start."""
        how = embedded_child.ending(self._process.returncode if self._process else None)
        return f"{how}; its output: {' | '.join([*self._output][lines])}" if self._output else how


class _Pool:
    """The servers of one process; they start and end one at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.servers: dict[tuple[Any, ...], EmbeddedProcess] = {}

    def make_room(self) -> bool:
        """Ends an unused server; returns True if there was one. The caller holds the lock."""
        idle = next((one for one in self.servers.values() if one.alive and not one.busy()), None)
        if idle:
            idle.stop()
        return idle is not None

    def end_when_idle(self, server: EmbeddedProcess, seconds: float) -> None:
        """Ends a server after `seconds` if it is idle then, else checks again later."""

        def look() -> None:
            with self.lock:
                left = server.used + server.idle - time.monotonic()
                if server.alive and (left > 0 or server.busy()):
                    self.end_when_idle(server, left if left > 0 else server.idle)
                else:
                    server.stop()

        server.timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), look)
        server.timer.daemon = True
        server.timer.start()


class EmbeddedRunner:
    """The embedded models of one manager. Safe across threads; a forked child starts its own servers."""

    def __init__(self, store: ModelStore | None = None, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._store, self._idle_seconds = store or ModelStore(), idle_seconds
        self._pools: dict[int, _Pool] = {}  # by process: a fork also has its parent's, which may stay locked
        weakref.finalize(self, _close, self._pools)  # at exit, and when the last reference goes

    @property
    def pool(self) -> _Pool:
        """The servers of this process."""
        return self._pools.setdefault(os.getpid(), _Pool())

    def endpoint(self, model: ModelConfig, *, embeddings: bool = False, slots: int = 1) -> Endpoint:
        """Returns the endpoint of `model`; starts its server if necessary. May block for seconds.

        It answers `slots` requests at the same time, each with a context of its own. Raises LocalModelError: not
        pulled, damaged, no room in memory, or llama.cpp cannot serve it.
        """
        key = (model.name, embeddings, model.num_ctx, slots, repr(sorted_options(model.extra)[1]))
        pool = self.pool
        server, idle = pool.servers.get(key), _idle_seconds(model.keep_alive, self._idle_seconds)
        if server is None or not server.alive:  # without a wait for the load of another model
            with pool.lock:
                server = pool.servers.get(key)
                if server is None or not server.alive:
                    server = EmbeddedProcess(model.name, self._settings(pool, model, embeddings, slots))
                    pool.servers[key] = server  # so that `close` ends it, even while it loads
                    with reported(f"loading embedded/{model.name}", "seconds"):
                        server.start(START_SECONDS)
                    pool.end_when_idle(server, idle)
                    self._store.touch(model.name)
        server.used, server.idle = time.monotonic(), idle
        return Endpoint(api_base=f"{server.address}/v1", token=server.token)

    def crash(self, api_base: str) -> LocalModelError | None:
        """Returns why the server at `api_base` died, or None if it did not; called after its connection broke."""
        servers = list(self.pool.servers.values())
        return next((one.crash() for one in servers if f"{one.address}/v1" == api_base), None)

    def close(self) -> None:
        """Ends all servers; the next call starts them again."""
        _close(self._pools)

    def _settings(self, pool: _Pool, model: ModelConfig, embeddings: bool, slots: int) -> dict[str, Any]:
        """Returns the settings of a server, with the context that fits; may end unused servers to make room."""
        path = self._checked(model)
        header, hardware = read_header(path), sorted_options(model.extra)[1]
        sized, context = replace(header, kv_bytes=header.kv_bytes * slots), 0
        while not context:
            try:
                free = machine.available_memory()
                context = machine.fitting_context(sized, model.name, free, wanted=model.num_ctx, embeddings=embeddings)
            except LocalModelError:
                if not pool.make_room():
                    raise
        batch = machine.batch_size(context, embeddings=embeddings)
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

    def _checked(self, model: ModelConfig) -> Path:
        """Returns the file of a model; may fetch it. Raises LocalModelError: not ready, or not the expected file."""
        name, pull = model.name, pull_again(model.name)
        if isinstance(missing := embedded_missing(model, store=self._store), Missing):
            raise _error(name, f"is not ready: {missing.what}: {missing.fix}")
        stored, path = self._store.get(name) or fetch(name, store=self._store), self._store.path(name)
        if (size := size_of(path)) != stored.size:
            was = f"has {size:,} bytes on disk and had {stored.size:,} when it was stored"
            raise _error(name, f"{was}. Fetch it again: {pull}")
        if not is_pinned(stored.sha256, model.digest):
            was = f"has the sha256 {stored.sha256[:16]}..., and llm.yaml wants digest: {model.digest}"
            raise _error(name, f"{was}. Correct the line, or fetch the model again: {pull}")
        return path


def _close(pools: Mapping[int, _Pool]) -> None:
    for server in [*pools[os.getpid()].servers.values()] if os.getpid() in pools else ():
        server.stop()


def _error(name: str, words: str) -> LocalModelError:
    return LocalModelError(f"embedded/{name} {words}", provider="embedded")


def _idle_seconds(keep_alive: str | int | None, default: float) -> float:
    """Returns the seconds of a duration as Ollama writes it ("10m", seconds, negative: infinite)."""
    text = str(keep_alive if keep_alive is not None else "").strip()
    if text.startswith("-"):
        return float("inf")
    seconds = seconds_of(text)
    return default if seconds is None else max(LEAST_IDLE, seconds)


def stored_header(model: ModelConfig) -> GgufHeader:
    """Returns the header of an embedded model. Raises LocalModelError if it is missing or damaged."""
    if ModelStore().get(model.name) is None:
        raise LocalModelError(f"it is not on this machine; {pull_command(model)}")
    return read_header(ModelStore().path(model.name))
