"""Whether an Ollama model is ready, and how it is pulled.

Only the line `success` ends a pull well, whatever the status was. The server keeps what it has, so a pull that broke
off, hung or was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import CassetteMissError, LLMError, LocalModelError
from testronaut_llm.local.download import WARNING, Progress, Report, held, is_pinned
from testronaut_llm.local.machine import check_memory, memory_of_servers
from testronaut_llm.local.ollama_provider import OllamaModel, OllamaServer, full_name, unreachable
from testronaut_llm.providers.provider_registry import is_local
from testronaut_llm.providers.row import Missing, Present
from testronaut_llm.support.paths import data_dir
from testronaut_llm.support.text import is_loopback

_SHOWN: dict[str, OllamaModel] = {}
"""Answers of `/api/show` by digest: they never change."""
_WAITS = (2.0, 8.0)
"""Seconds before the second try and the third, or what is left of the caller's patience."""
_HOPELESS = {
    "no space left": "make room on the disk of the Ollama server, or remove a model: testronaut-llm models list",
    "newer version": "update Ollama: https://ollama.com/download",
    **dict.fromkeys(
        ("file does not exist", "invalid model name", "not found", "unauthorized"),
        "check its name and tag at https://ollama.com/library",
    ),
}
"""Words of errors that no other try fixes, and what does."""


def ollama_missing(model: ModelConfig) -> Missing | Present | None:
    """Returns why a model is not ready, or which one it is. One GET; at most a second where nothing answers."""
    try:
        with OllamaServer.of(model) as server:
            found = server.find(model.name)
            if found is None:
                return None if model.auto_pull is True else server.missing(model.name)
            details = _details(server, model, found)
            _check_it_is_meant(server, model, found)
    except CassetteMissError:
        raise  # an error of the test, not of the server
    except LLMError as error:
        what, _, fix = str(error).partition("; ")
        return Missing(what, fix)
    thinks = "thinking" in details.capabilities if details.capabilities else None
    return Present(found.digest, details.context_length, thinks)


def _details(server: OllamaServer, model: ModelConfig, found: OllamaModel) -> OllamaModel:
    """Returns the row of the server's list; an older server, whose list does not say what is needed, is asked once."""
    wants_to_know = model.reasoning not in (None, "off") and not found.capabilities
    if found.context_length is not None and not wants_to_know:
        return found
    if found.digest not in _SHOWN:
        _SHOWN[found.digest] = found
        with suppress(LLMError):
            _SHOWN[found.digest] = server.show(found.name)
    return _SHOWN[found.digest]


def _check_it_is_meant(server: OllamaServer, model: ModelConfig, found: OllamaModel) -> None:
    """Raises LocalModelError if it is not the pinned model, does not run there, or cannot."""
    if not is_pinned(found.digest, model.digest):
        pinned = str(model.digest).removeprefix("sha256:")
        raise LocalModelError(
            f"{model.name!r} has digest {found.digest[:12]}, and llm.yaml pins {pinned[:12]}; "
            f"{server.pull_command(model.name)}, or correct `digest:`"
        )
    if found.remote_host and is_local(model):
        # By its name and address it looked local; only the server knows that it is not.
        raise LocalModelError(
            f"{model.name!r} does not run here: Ollama sends its prompts to {found.remote_host}; "
            "if that is all right, say so with `local: false` (private tasks then skip it)"
        )
    if is_local(model) and is_loopback(server.url):
        try:
            check_memory(repr(model.name), found.size, memory_of_servers())
        except LocalModelError as error:
            raise LocalModelError(f"{error}, or say `local: false` where the server is not on this machine") from None


class _BrokenError(Exception):
    """This try failed, and another may go on where it ended."""


class _Step(NamedTuple):
    """A step of a pull: bytes of the layer that it is at, or the error that ended it."""

    status: str = ""
    total: int | None = None
    completed: int = 0
    error: str = ""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> _Step:
        """Reads what a server said; values of a wrong type are left out."""
        kinds = {"status": str, "total": int, "completed": int, "error": str}
        return cls(**{name: said[name] for name, kind in kinds.items() if type(said.get(name)) is kind})


def pull(server: OllamaServer, name: str, *, report: Report | None = None, patience: float = 120.0) -> None:
    """Fetches a model, or what is missing of it. One pull of a model at a time on this machine.

    After `patience` seconds without progress it is begun anew.

    Raises:
        LocalModelError: there is no such model, no room, or no progress after three tries; the message says which.
    """
    tell, waiting = report or (lambda _: None), Progress(note="another process pulls it; waiting")
    lock = f"pull-{hashlib.sha256(f'{server.url} {full_name(name)}'.encode()).hexdigest()[:16]}.lock"
    with held(data_dir() / "locks" / lock, lambda: tell(waiting)):
        for wait in (*_WAITS, None):
            try:
                _once(server, name, tell, patience, again=wait is not _WAITS[0])
                return
            except _BrokenError as broken:
                if wait is None:
                    raise LocalModelError(
                        f"Ollama did not get {name!r} in {len(_WAITS) + 1} tries: {broken}; what it has is kept, "
                        f"so try again later: {server.pull_command(name)}"
                    ) from None
                tell(Progress(note=f"{broken}; going on where it was in {min(wait, patience):g} seconds"))
                sleep(min(wait, patience))


def _once(server: OllamaServer, name: str, report: Report, patience: float, *, again: bool) -> None:
    import httpx

    status, room = "", ""
    try:
        with closing(server.pulling(name, silence=patience)) as steps:
            for step in _moving(map(_Step.of, steps), patience):
                if step.error:
                    raise _failed(name, step.error)
                status = step.status
                if not room and (room := _room(server, name, step)):
                    report(Progress(note=room))
                report(Progress(note=status, done=step.completed, total=step.total))
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise _BrokenError("it cannot be reached any more") if again else unreachable(server.url, error) from None
    except httpx.TimeoutException:
        raise _BrokenError(f"nothing came for {patience:g} seconds") from None
    except (httpx.HTTPError, ValueError, RecursionError) as error:
        raise _BrokenError(f"the connection to Ollama broke ({type(error).__name__})") from None
    if status != "success":
        raise _BrokenError("Ollama stopped before it was done")


def _failed(name: str, words: str) -> Exception:
    fix = next((fix for hopeless, fix in _HOPELESS.items() if hopeless in words), None)
    return LocalModelError(f"Ollama cannot pull {name!r}: {words}; {fix}") if fix else _BrokenError(words)


def _moving(steps: Iterator[_Step], patience: float) -> Iterator[_Step]:
    """Yields the steps as long as they change: a stuck download goes on reporting the same number."""
    last, since = None, time.monotonic()
    for step in steps:
        here = (step.status, step.completed)
        if here != last:
            last, since = here, time.monotonic()
        elif time.monotonic() - since > patience:
            raise _BrokenError(f"no progress for {patience:g} seconds")
        yield step


def _room(server: OllamaServer, name: str, step: _Step) -> str:
    """Returns a warning where the disk looks too small; no more than that, since only the server knows its folder.

    Raises LocalModelError: the server is on this machine, whose memory is too small for this layer.
    """
    if step.total is None or not is_loopback(server.url):
        return ""
    check_memory(f"{name!r} (to have it all the same: ollama pull {name})", step.total, memory_of_servers())
    missing = step.total - step.completed
    named = os.environ.get("OLLAMA_MODELS")
    places = map(os.path.expanduser, [named] if named else ["/usr/share/ollama/.ollama/models", "~/.ollama/models"])
    folder = next((folder for folder in map(Path, places) if folder.is_dir()), None)
    free = shutil.disk_usage(folder).free if folder else math.inf
    if missing <= free:
        return ""
    return (
        f"{WARNING}{missing / 1e9:.1f} GB are missing of the model, and {folder} has {free / 1e9:.1f} GB free; if "
        "Ollama keeps its models there, remove one (testronaut-llm models list), or move the folder (OLLAMA_MODELS)"
    )
