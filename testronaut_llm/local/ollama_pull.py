"""Pulling a model through an Ollama server: only the line `success` is success, whatever the status was.

The server keeps what it has, so a pull that broke off, hung or was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import sleep

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.download import WARNING, Progress, Report, held
from testronaut_llm.local.machine import memory_of_servers
from testronaut_llm.local.memory_fit import check_memory
from testronaut_llm.local.ollama_models import PullStep
from testronaut_llm.local.ollama_provider import OllamaServer, full_name, unreachable
from testronaut_llm.support.paths import data_dir
from testronaut_llm.support.text import is_loopback

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


class _BrokenError(Exception):
    """This try came to nothing, and another may go on where it ended."""


def pull(server: OllamaServer, name: str, *, report: Report | None = None, patience: float = 120.0) -> None:
    """Fetches a model, or what is missing of it. One pull of a model at a time on this machine.

    After `patience` seconds without progress it is begun anew.

    Raises:
        LocalModelError: there is no such model, no room, or no progress after three tries; the message says which.
    """
    tell, waiting = report or (lambda _: None), Progress(note="another process pulls it; waiting")
    lock = f"pull-{hashlib.sha256(f'{server.url} {full_name(name)}'.encode()).hexdigest()[:16]}.lock"
    with held(data_dir() / "locks" / lock, lambda: tell(waiting)):
        _some_tries(server, name, tell, patience)


def _some_tries(server: OllamaServer, name: str, tell: Report, patience: float) -> None:
    for wait in (*_WAITS, None):
        try:
            _once(server, name, tell, patience, again=wait is not _WAITS[0])
        except _BrokenError as broken:
            if wait is None:
                raise LocalModelError(
                    f"Ollama did not get {name!r} in {len(_WAITS) + 1} tries: {broken}; what it has is kept, "
                    f"so try again later: {server.pull_command(name)}"
                ) from None
            tell(Progress(note=f"{broken}; going on where it was in {min(wait, patience):g} seconds"))
            sleep(min(wait, patience))
        else:
            return


def _once(server: OllamaServer, name: str, report: Report, patience: float, *, again: bool) -> None:
    import httpx

    status, room = "", ""
    try:
        with closing(server.pulling(name, silence=patience)) as steps:
            for step in _moving(steps, patience):
                if step.error:
                    raise _failed(name, step.error)
                status = step.status
                _check_memory(server, name, step)
                if not room and (room := _no_room(server, step)):
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


def _moving(steps: Iterator[PullStep], patience: float) -> Iterator[PullStep]:
    """The steps, as long as they get somewhere: a stuck download goes on reporting the same number."""
    last, since = None, time.monotonic()
    for step in steps:
        here = (step.status, step.completed)
        if here != last:
            last, since = here, time.monotonic()
        elif time.monotonic() - since > patience:
            raise _BrokenError(f"no progress for {patience:g} seconds")
        yield step


def _check_memory(server: OllamaServer, name: str, step: PullStep) -> None:
    """Raises LocalModelError: the server is on this machine, whose memory is too small for this layer."""
    if step.total is not None and is_loopback(server.url):
        check_memory(f"{name!r} (to have it all the same: ollama pull {name})", step.total, memory_of_servers())


def _no_room(server: OllamaServer, step: PullStep) -> str:
    """Returns a warning where the disk looks too small; no more than that, since only the server knows its folder."""
    folder = _models_folder() if step.total is not None and is_loopback(server.url) else None
    missing, free = (step.total or 0) - step.completed, shutil.disk_usage(folder).free if folder else math.inf
    if missing <= free:
        return ""
    return (
        f"{WARNING}{missing / 1e9:.1f} GB are missing of the model, and {folder} has {free / 1e9:.1f} GB free; if "
        "Ollama keeps its models there, remove one (testronaut-llm models list), or move the folder (OLLAMA_MODELS)"
    )


def _models_folder() -> Path | None:
    """Where a server on this machine most likely keeps its models; None where it cannot be seen."""
    named = os.environ.get("OLLAMA_MODELS")
    places = map(os.path.expanduser, [named] if named else ["/usr/share/ollama/.ollama/models", "~/.ollama/models"])
    return next((folder for folder in map(Path, places) if folder.is_dir()), None)
