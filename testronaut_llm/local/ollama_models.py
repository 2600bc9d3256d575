"""Ollama models: pulls, and the context and options that requests are sent with."""

import hashlib
import time
from collections.abc import Mapping
from contextlib import closing
from time import sleep
from typing import Any

from testronaut_llm.config.extra_fields import sorted_options
from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.download import Progress, Report, file_lock
from testronaut_llm.local.machine import check_memory, memory_of_servers
from testronaut_llm.local.ollama_provider import OllamaServer, PullBrokenError, full_name
from testronaut_llm.support.paths import data_dir
from testronaut_llm.support.text import is_loopback

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
