"""Ollama models: readiness, pulls, and the context and options that requests are sent with."""

import hashlib
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from time import sleep
from typing import Any

from testronaut_llm.config.extra_fields import sorted_options
from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import CassetteMissError, LLMError, LocalModelError
from testronaut_llm.local.download import Progress, Report, file_lock, is_pinned
from testronaut_llm.local.machine import check_memory, memory_of_servers
from testronaut_llm.local.ollama_provider import OllamaModel, OllamaServer, PullBrokenError, full_name
from testronaut_llm.providers.provider_registry import is_local
from testronaut_llm.providers.row import Missing, Present
from testronaut_llm.support.paths import data_dir
from testronaut_llm.support.text import is_loopback

_SHOWN: dict[str, OllamaModel] = {}
"""Answers of `/api/show` by digest; they never change."""
_WAITS = (2.0, 8.0)
"""Seconds before the second try and the third."""
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


def ollama_missing(model: ModelConfig) -> Missing | Present | None:
    """Returns why a model is not ready, or which one it is; None if it may be pulled. Takes a second at most."""
    running = None
    try:
        with OllamaServer.of(model) as server:
            found = server.find(model.name) if model.auto_pull is True else server.pulled(model.name)
            if found is None:
                return None
            details = _details(server, model, found)
            _check_expected(server, model, found)
            with suppress(LLMError):  # an older server may not tell
                running = server.find(model.name, loaded=True)
    except CassetteMissError:
        raise  # an error of the test, not of the server
    except LLMError as error:
        what, _, fix = str(error).partition("; ")
        return Missing(what, fix.removeprefix("run: "), unreachable=what.startswith("no Ollama answers"))
    thinks = "thinking" in details.capabilities if details.capabilities else None
    loaded = running.context_length if running else None
    return Present(found.digest, details.context_length, thinks, loaded, time.monotonic())


def _details(server: OllamaServer, model: ModelConfig, found: OllamaModel) -> OllamaModel:
    """Returns the model from the server's list, or from `show` if the list of an older server lacks details."""
    needs_capabilities = model.reasoning not in (None, "off") and not found.capabilities
    if found.context_length is not None and not needs_capabilities:
        return found
    with suppress(LLMError):
        if found.digest not in _SHOWN:
            _SHOWN[found.digest] = server.show(found.name)
        return _SHOWN[found.digest]
    return found


def _check_expected(server: OllamaServer, model: ModelConfig, found: OllamaModel) -> None:
    """Raises LocalModelError if a model is not the pinned one, runs on another host, or does not fit into memory."""
    if not is_pinned(found.digest, model.digest):
        pinned = f"{model.name!r} has digest {found.digest[:12]}, and llm.yaml pins {model.digest}"
        raise LocalModelError(f"{pinned}; {server.pull_command(model.name)}, or correct `digest:`")
    if found.remote_host and is_local(model):  # its name and address look local; only the server reports it
        fix = "to allow that, write `local: false` (private tasks then skip it)"
        raise LocalModelError(
            f"{model.name!r} does not run here: Ollama sends its prompts to {found.remote_host}; {fix}"
        )
    if is_local(model) and is_loopback(server.url):
        try:
            check_memory(repr(model.name), found.size, memory_of_servers())
        except LocalModelError as error:
            raise LocalModelError(f"{error}, or write `local: false` if the server is not on this machine") from None


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
