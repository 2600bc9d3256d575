"""Embedded models: a GGUF file served by llama.cpp in a child process on loopback, for as long as it is used.

The gateway talks to it as to any OpenAI-compatible server. Here is only who starts, shares and ends the processes.
"""

from __future__ import annotations

import functools
import os
import re
import threading
import time
import weakref
from dataclasses import dataclass, field, replace

from testronaut_llm.config.local_options import sorted_options
from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import machine, memory_fit
from testronaut_llm.local.catalogue import catalogue
from testronaut_llm.local.download import is_pinned, pull_again, size_of
from testronaut_llm.local.embedded_process import EmbeddedProcess, Settings, library_fault
from testronaut_llm.local.gguf_header import GgufHeader, read_header
from testronaut_llm.local.model_downloader import fetch
from testronaut_llm.local.model_store import ModelStore

IDLE_SECONDS = 300.0
START_SECONDS = 120.0
"""That an unused server stays, and that a load may take."""
INSTALL = 'pip install "testronaut-llm[embedded]"'
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Key = tuple[str, bool, int | None, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where an OpenAI-compatible server answers, and the token it wants as the API key."""

    api_base: str
    token: str = field(repr=False)


@dataclass(slots=True)
class _Seat:
    """The place of one model's server, whether it runs or not."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    process: EmbeddedProcess | None = None
    used: float = 0.0
    idle: float = IDLE_SECONDS
    timer: threading.Timer | None = None

    def stop(self) -> None:
        """End its server, if there is one; the caller holds the lock."""
        if self.process:
            self.process.stop()
            self.process = None


class _Seats(dict[Key, _Seat]):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def all(self) -> list[_Seat]:
        with self.lock:
            return list(self.values())


class EmbeddedRunner:
    """The embedded models of one manager. Safe across threads; a forked child starts its own servers.

    `idle_seconds` is how long an unused server stays; a model's `keep_alive` goes first.
    """

    def __init__(self, store: ModelStore | None = None, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._store, self._idle_seconds = store or ModelStore(), idle_seconds
        self._seats = _Seats()
        weakref.finalize(self, _stop_all, self._seats)  # at exit too, and when nobody holds the runner
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=functools.partial(_disown, weakref.ref(self._seats)))

    def endpoint(self, model: ModelConfig, *, embeddings: bool = False, slots: int = 1) -> Endpoint:
        """Where `model` answers; its server is started when it does not run. May block for seconds.

        `slots` is how many requests it answers at the same time, each with a context of its own.

        Raises:
            LocalModelError: not pulled, damaged, no room in memory, or llama.cpp cannot serve it; says what mends it.
        """
        hardware = sorted_options(model.extra)[1]
        with self._seats.lock:
            seat = self._seats.setdefault((model.name, embeddings, model.num_ctx, slots, repr(hardware)), _Seat())
        with seat.lock:
            seat.used, seat.idle = time.monotonic(), _idle_seconds(model.keep_alive, self._idle_seconds)
            if seat.process is None or not seat.process.alive:
                seat.stop()
                seat.process = self._start(model, embeddings, slots)
                _arm(seat, seat.idle)
            return Endpoint(api_base=f"{seat.process.address}/v1", token=seat.process.settings.token)

    def load(self, model: ModelConfig, *, slots: int = 1) -> None:
        """Start the server of `model` for what its file is made for, text or vectors. Raises as `endpoint` does."""
        file = self._store.find(model.name)
        self.endpoint(model, embeddings=file is not None and read_header(file).pooling is not None, slots=slots)

    def crash(self, api_base: str) -> LocalModelError | None:
        """Why the server at `api_base` died, or None if it did not; to be asked when a connection to it broke."""
        processes = [seat.process for seat in self._seats.all() if seat.process]
        return next((process.crash() for process in processes if f"{process.address}/v1" == api_base), None)

    def close(self) -> None:
        """End all servers. The runner can be used again."""
        _stop_all(self._seats)

    def _start(self, model: ModelConfig, embeddings: bool, slots: int) -> EmbeddedProcess:
        missing = embedded_missing(model, store=self._store)
        if missing:
            raise LocalModelError(f"embedded/{model.name}: {missing}", provider="embedded")
        if self._store.find(model.name) is None:
            fetch(model.name, store=self._store)
        process = EmbeddedProcess(model.name, self._settings(model, embeddings, slots))
        process.start(START_SECONDS)
        self._store.touch(model.name)
        return process

    def _settings(self, model: ModelConfig, embeddings: bool, slots: int) -> Settings:
        path, stored = self._store.path(model.name), self._store.get(model.name)
        size, fault = size_of(path), ""
        if stored and size != stored.size:
            fault = f"has {size:,} bytes on disk and had {stored.size:,} when it was stored. Fetch it again"
        elif stored and not is_pinned(stored.sha256, model.digest):
            fault = f"has the sha256 {stored.sha256[:16]}..., and llm.yaml wants digest: {model.digest}. Correct the "
            fault += "line, or fetch the model again"
        if fault:
            again = pull_again(model.name)
            raise LocalModelError(f"embedded/{model.name} {fault}: {again}", provider="embedded")
        header = read_header(path)
        context = self._context(replace(header, kv_bytes=header.kv_bytes * slots), model, embeddings)
        hardware, batch = sorted_options(model.extra)[1], memory_fit.batch_size(context, embeddings=embeddings)
        return Settings(
            model=str(path),
            context=context * slots,
            slots=slots,
            batch=batch if embeddings else min(context, hardware.get("num_batch") or batch),
            n_gpu_layers=hardware.get("num_gpu"),
            main_gpu=hardware.get("main_gpu"),
            mmap=hardware.get("use_mmap"),
            draft=hardware.get("draft_num_predict"),
            threads=hardware.get("num_thread") or machine.threads(),
            embeddings=embeddings,
            pooling=header.pooling,
        )

    def _context(self, header: GgufHeader, model: ModelConfig, embeddings: bool) -> int:
        """Tokens of context that fit in memory; other models' idle servers make room when it takes that."""
        while True:
            try:
                return memory_fit.fitting_context(
                    header, model.name, machine.available_memory(), wanted=model.num_ctx, embeddings=embeddings
                )
            except LocalModelError:
                if not any(_stop_if_idle(seat) for seat in self._seats.all()):
                    raise


def embedded_missing(model: ModelConfig, *, store: ModelStore | None = None) -> str | None:
    """What keeps an embedded model from being used, with the command that mends it; None when it is ready."""
    import importlib.util

    if importlib.util.find_spec("xllamacpp") is None:
        return f"the package xllamacpp is not installed: {INSTALL}"
    try:
        fetched_on_demand = model.auto_pull is True and model.name in catalogue()
        if (store or ModelStore()).find(model.name) is None and not fetched_on_demand:
            return f"the model is not on this machine: testronaut-llm models pull embedded/{model.name}"
    except LocalModelError as error:
        return str(error)
    return library_fault() or None


def _idle_seconds(keep_alive: object, default: float) -> float:
    """Ollama's form of a duration ("10m", seconds, negative: for ever) in seconds."""
    if keep_alive is None:
        return default
    text = str(keep_alive).strip()
    if text.startswith("-"):
        return float("inf")
    parts = DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * SECONDS[unit] for number, unit in parts)
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else default


def _arm(seat: _Seat, seconds: float) -> None:
    if seconds != float("inf"):
        seat.timer = threading.Timer(seconds, _retire, (seat,))
        seat.timer.daemon = True
        seat.timer.start()


def _retire(seat: _Seat) -> None:
    """Stop the server if it was idle long enough; look again later if not."""
    with seat.lock:
        if seat.process is None or not seat.process.alive:
            return
        left = seat.used + seat.idle - time.monotonic()
        if left <= 0 and seat.process.busy():
            left = seat.idle
        if left > 0:
            _arm(seat, left)
        else:
            seat.stop()


def _stop_if_idle(seat: _Seat) -> bool:
    """Stop the server unless someone uses or starts it; whether it was stopped."""
    if not seat.lock.acquire(blocking=False):
        return False
    try:
        if seat.process is None or not seat.process.alive or seat.process.busy():
            return False
        seat.stop()
        return True
    finally:
        seat.lock.release()


def _stop_all(seats: _Seats) -> None:
    for seat in seats.all():
        with seat.lock:
            if seat.timer:
                seat.timer.cancel()
            seat.stop()


def _disown(reference: weakref.ref[_Seats]) -> None:
    """In a forked child: the servers are the parent's, and locks may be held by threads that are not here."""
    if (seats := reference()) is not None:
        for seat in seats.values():
            if seat.process:
                seat.process.disown()
        seats.clear()
        seats.lock = threading.Lock()
