"""The local models of one manager: pulls, loads and sizes them, and explains their failures."""

from __future__ import annotations

import contextvars
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from time import sleep
from typing import TYPE_CHECKING, Any

from testronaut_llm.config.extra_fields import sorted_options
from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import ConnectionFailedError, LLMError, LLMTimeoutError, LocalModelError
from testronaut_llm.limits.rules import at_once
from testronaut_llm.local.download import Progress, Report, file_lock, reported
from testronaut_llm.local.local_provider import EmbeddedRunner, stored_header
from testronaut_llm.local.machine import check_memory, memory_of_servers
from testronaut_llm.local.model_downloader import fetch as fetch_embedded
from testronaut_llm.local.ollama_provider import OllamaServer, PullBrokenError, full_name
from testronaut_llm.local.readiness import Probes
from testronaut_llm.providers.provider import endpoint_of, pull_command
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.support.paths import data_dir
from testronaut_llm.support.text import is_loopback

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.local.local_provider import Endpoint

_WAITS = (2.0, 8.0)  # seconds before the second try and the third
_HOPELESS = {
    "no space left": "make room on the disk of the Ollama server, or remove a model: testronaut-llm models list",
    "newer version": "update Ollama: https://ollama.com/download",
    **dict.fromkeys(
        ("file does not exist", "invalid model name", "not found", "unauthorized"),
        "check its name and tag at https://ollama.com/library",
    ),
    "answered status 3": "check api_base: it is not Ollama's own address",
    "answered status 40": "check api_base, and the key that the server asks for",
}
"""Words of errors that a retry cannot fix, and the fix for each."""


def pull(server: OllamaServer, name: str, *, report: Report | None = None, patience: float = 120.0) -> None:
    """Pulls a model, or its missing parts. A try ends after `patience` seconds without progress.

    Raises LocalModelError: no such model, not enough memory or disk, or three tries failed.
    """
    notify = report or (lambda _: None)
    lock = f"pull-{hashlib.sha256(f'{server.url} {full_name(name)}'.encode()).hexdigest()[:16]}.lock"
    with file_lock(data_dir() / "locks" / lock):
        for wait in (*_WAITS, None):
            try:
                _pull_once(server, name, notify, patience)
                break
            except PullBrokenError as error:
                reason, unreachable = str(error), error.__cause__
            if unreachable and wait == _WAITS[0]:
                raise unreachable
            if fix := next((fix for words, fix in _HOPELESS.items() if words in reason), None):
                raise LocalModelError(f"Ollama cannot pull {name!r}: {reason}; {fix}")
            if wait is None:
                fix = f"what it has is kept, so try again later: {server.pull_command(name)}"
                raise LocalModelError(f"Ollama did not get {name!r} in {len(_WAITS) + 1} tries: {reason}; {fix}")
            notify(Progress(note=f"{reason}; continuing in {min(wait, patience):g} seconds"))
            sleep(min(wait, patience))


def _pull_once(server: OllamaServer, name: str, notify: Report, patience: float) -> None:
    last, since = Progress(), time.monotonic()
    with closing(server.pulling(name, silence=patience)) as steps:
        for step in steps:
            if step != last:
                since = time.monotonic()
            elif time.monotonic() - since > patience:  # a stuck download keeps reporting the same number
                raise PullBrokenError(f"no progress for {patience:g} seconds")
            if step.total != last.total and is_loopback(server.url):
                what = f"{name!r} (to pull it anyway: ollama pull {name})"
                check_memory(what, step.total or 0, memory_of_servers())
            last = step
            notify(step)
    if last.note != "success":
        raise PullBrokenError("Ollama stopped before it was done")


def load_options(model: ModelConfig, num_ctx: int | None, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the options that a model is loaded with: its context and its hardware options."""
    return sorted_options(model.extra, extra or {})[1] | ({"num_ctx": num_ctx} if num_ctx else {})


def chat_body(
    model: ModelConfig, own: Mapping[str, Any], *, num_ctx: int | None, extra: Mapping[str, Any], thinks: bool | None
) -> dict[str, Any]:
    """Returns the fields of `/api/chat` besides model, messages, format and stream.

    The options `own` override those of `extra`; `thinks`: True if the model can reason, None if unknown.
    """
    sampling, _, others = sorted_options(model.extra, extra)
    options = {**sampling, **load_options(model, num_ctx, extra), **own}
    # Without an error, `truncate` cuts a prompt that is too long, and `shift` drops its beginning during the answer.
    body = {**others, "options": options, "truncate": False, "shift": False}
    if model.reasoning == "off" or (model.reasoning is not None and thinks is not False):
        body["think"] = False if model.reasoning == "off" else model.reasoning
    return body if model.keep_alive is None else {**body, "keep_alive": model.keep_alive}


def embed_body(model: ModelConfig, *, num_ctx: int | None, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `/api/embed` besides model, input and dimensions."""
    fields = {"options": load_options(model, num_ctx, extra) or None, "keep_alive": model.keep_alive}
    return {"truncate": False, **{name: value for name, value in fields.items() if value is not None}}


_STEP, _LEAST, _MOST = 2048, 4096, 16384
"""Tokens: another context size reloads an Ollama model, so sizes are multiples of a step, within bounds."""


@dataclass(slots=True)
class Fetch:
    """A fetch in its own thread, for all calls that wait for the model. It ends at `until` at the latest."""

    model: ModelConfig
    until: float
    future: Future[None] = field(default_factory=Future)

    def failure(self) -> LLMError | None:
        """Returns why the model is missing for the call that has waited, or None if it is there."""
        error = self.future.exception() if self.future.done() else self.late()
        if error is not None and not isinstance(error, LLMError):
            raise error
        return error

    def late(self) -> LocalModelError:
        """Returns the error of a fetch that took too long."""
        late = f"{self.model.alias}: {self.model.model} was still being pulled when the time of the call was over"
        return LocalModelError(f"{late}; the next pull continues. Pull it before the call: {pull_command(self.model)}")


@dataclass(slots=True)
class _Loaded:
    """The context (tokens) with which an Ollama model is in memory, as known at a monotonic time."""

    at: float = 0.0
    context: int | None = None
    had_to_load: bool = False
    cannot_think: bool = False


def makes_vectors(model: ModelConfig) -> bool:
    """True if a model is for embeddings, not for text. Raises LocalModelError if it is missing or damaged."""
    if provider_of(model).name == "ollama":
        with OllamaServer.of(model) as server:
            return "embedding" in server.abilities(server.pulled(model.name))
    return stored_header(model).pooling is not None


class LocalModels:
    """The local models of one manager. Safe for threads. `on_event` gets the events of fetches."""

    def __init__(
        self, config: Callable[[], LLMConfig], probes: Probes, on_event: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self._config, self._probes, self._on_event = config, probes, on_event
        self._fetches: dict[tuple[str, str | None], Fetch] = {}
        self._lock = threading.Lock()
        self._served: dict[str, str] = {}
        self._loaded: dict[tuple[str | None, str], _Loaded] = {}
        self.repeatable = False
        self.runner = EmbeddedRunner()

    def close(self) -> None:
        """Ends the embedded models, and the fetches at their next step."""
        with self._lock:
            for fetch in self._fetches.values():
                fetch.until = 0.0
        self.runner.close()

    def serve(self, model: ModelConfig, *, embeddings: bool) -> Endpoint:
        """Returns the endpoint of an embedded model; may start it. Raises as `EmbeddedRunner.endpoint` does."""
        endpoint = self.runner.endpoint(model, embeddings=embeddings, slots=at_once(self._config(), model))
        self._served[model.alias] = endpoint.api_base
        return endpoint

    def fetch(self, model: ModelConfig, seconds: float) -> Fetch | None:
        """Starts or joins the fetch of a missing model; `seconds` is the time that the call has left."""
        if model.auto_pull is not True:
            return None
        provider = provider_of(model)
        if not provider.local or not self._probes.is_absent(model, provider):
            return None
        key, until = (model.model, model.api_base), time.monotonic() + seconds
        with self._lock:
            fetch = self._fetches.get(key)
            if fetch is not None and not fetch.future.done():
                fetch.until = max(fetch.until, until)
                return fetch
            fetch = self._fetches[key] = Fetch(model, until)
        fetch.future.set_running_or_notify_cancel()  # so that one waiter cannot cancel it for the others
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._run, fetch), name=f"pull-{model.name}", daemon=True).start()
        return fetch

    def _run(self, fetch: Fetch) -> None:
        model, began, error = fetch.model, time.monotonic(), None
        about = {"gen_ai.request.model": model.model}
        self._on_event("model_pull", about)
        try:
            with reported(model.model) as show:

                def report(progress: Progress) -> None:
                    show(progress)
                    if time.monotonic() > fetch.until:
                        raise fetch.late()

                if provider_of(model).name == "embedded":
                    fetch_embedded(model.name, progress=report)
                else:
                    with OllamaServer.of(model) as server:
                        pull(server, model.name, report=report)
            self._probes.forget()
            self._check(model)  # it may not be the pinned model, or not run here
        except BaseException as raised:  # noqa: BLE001 - it is raised for those who wait
            error = raised
        how = {"llm.outcome": "failed" if error else "pulled", "error.message": error}
        self._on_event("model_pull_ended", {**about, **how, "llm.latency_s": round(time.monotonic() - began, 1)})
        fetch.future.set_exception(error) if error else fetch.future.set_result(None)

    def _check(self, model: ModelConfig) -> None:
        if (missing := self._probes.ask(model, provider_of(model))) is not None:
            raise LocalModelError(f"{model.alias}: {missing.what}; {missing.fix}".removesuffix("; "))

    def load(self, model: ModelConfig) -> None:
        """Loads a local model into memory as calls want it. Raises LocalModelError if that fails."""
        provider = provider_of(model)
        if provider.name not in ("embedded", "ollama"):
            return
        self._check(model)
        if (fetch := self.fetch(model, float("inf"))) is not None:
            fetch.future.result()
        vectors = makes_vectors(model)
        if provider.name == "embedded":
            self.serve(model, embeddings=vectors)
            return
        seen = self._probes.seen(model, provider)
        options = load_options(model, self.window(model, most=seen.context if seen else None))
        with OllamaServer.of(model) as server:
            server.load(model.name, vectors=vectors, keep_alive=model.keep_alive, options=options)

    def window(self, model: ModelConfig, *, needed: int = 0, most: int | None = None) -> int | None:
        """Returns the tokens of context to request from Ollama, and notes them as loaded; None for other models.

        That is `num_ctx`, or the loaded size if it holds the `needed` tokens of this call, or a new size. `most` are
        the tokens that the model was trained for (None: unknown).
        """
        provider = provider_of(model)
        if provider.wire != "ollama":
            return None
        known, seen = self._of(model), self._probes.seen(model, provider)
        if seen is not None and seen.at > known.at and not self.repeatable:
            known.at, known.context = seen.at, seen.loaded
        size = model.num_ctx or known.context
        if not size or (size < needed and not model.num_ctx):
            tasks = self._config().tasks.values()
            longest = max((task.max_tokens for task in tasks if model.alias in task.models), default=0)
            tokens = max(_LEAST, min(_MOST, longest + _STEP), needed)
            size = -(-tokens // _STEP) * _STEP
        size = min(size, most or size)
        if not self.repeatable:
            known.at, known.context, known.had_to_load = time.monotonic(), size, known.context != size
        return size

    def has_to_load(self, model: ModelConfig) -> bool:
        """True if an Ollama server loads the model for the request that was prepared last."""
        return self._of(model).had_to_load

    def thinks(self, model: ModelConfig) -> bool | None:
        """True if a model can reason before it answers; None if unknown."""
        seen = None if self.repeatable else self._probes.seen(model, provider_of(model))
        return False if self._of(model).cannot_think else seen.thinks if seen else None

    def note_cannot_think(self, model: ModelConfig) -> None:
        """Remembers that a server refused reasoning for a model."""
        self._of(model).cannot_think = True

    def explain(self, model: ModelConfig, error: LLMError) -> LLMError | None:
        """Returns an error with the cause: the embedded model died, or was still loading; else None."""
        if isinstance(error, ConnectionFailedError) and (base := self._served.get(model.alias)):
            return self.runner.crash(base)
        if isinstance(error, LLMTimeoutError) and self._of(model).had_to_load:
            fix = f"load it before the call (llm.warm_up({model.alias!r})), or give it a longer `timeout`"
            message = f"{error}. The model was not in memory, and may still have been loading: {fix}"
            return LLMTimeoutError(message, status=error.status, request_id=error.request_id)
        return None

    def _of(self, model: ModelConfig) -> _Loaded:
        return self._loaded.setdefault((endpoint_of(model, provider_of(model)).url, model.name), _Loaded())
