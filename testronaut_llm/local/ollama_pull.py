"""Pulling a model through an Ollama server: only the line `success` is success, whatever the status was.

The server keeps what it has, so a pull that broke off, hung or was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.download import Progress, Report, held
from testronaut_llm.local.ollama_provider import OllamaServer, unreachable
from testronaut_llm.model_config import ModelConfig
from testronaut_llm.providers.endpoint import is_loopback
from testronaut_llm.support.log import logger
from testronaut_llm.support.paths import data_dir

if TYPE_CHECKING:
    from ollama import ProgressResponse

_TRIES = 3
_HOPELESS = {
    "no space left": "make room on the disk of the Ollama server, or remove a model: ollama rm NAME",
    "newer version": "update Ollama: https://ollama.com/download",
    **dict.fromkeys(
        ("file does not exist", "invalid model name", "not found", "unauthorized"),
        "check its name and tag at https://ollama.com/library",
    ),
}
"""Words of errors that no other try mends, and what does."""


class _BrokenError(Exception):
    """This try came to nothing, and another may go on where it ended."""


def pull(
    server: OllamaServer, name: str, *, report: Report | None = None, patience: float = 120.0, wait: float = -1.0
) -> None:
    """Fetches a model, or what is missing of it. One pull of a model at a time on this machine.

    After `patience` seconds without progress it is begun anew; another process that pulls the same is waited for
    `wait` seconds, or as long as it takes where that is negative.

    Raises:
        LocalModelError: there is no such model, no room, or no progress after three tries; the message says which.
    """
    from filelock import Timeout

    tell, waiting = report or (lambda _: None), Progress(note="another process pulls it; waiting")
    lock = f"pull-{hashlib.sha256(f'{server.url} {name}'.encode()).hexdigest()[:16]}.lock"
    try:
        with held(data_dir() / "locks" / lock, lambda: tell(waiting), timeout=wait):
            _some_tries(server, name, tell, patience)
    except Timeout:
        raise LocalModelError(f"another process still pulls {name!r} after {wait:.0f} s; try again later") from None


def _some_tries(server: OllamaServer, name: str, tell: Report, patience: float) -> None:
    for tries_left in reversed(range(_TRIES)):
        try:
            _once(server, name, tell, patience)
        except _BrokenError as broken:
            if not tries_left:
                raise LocalModelError(
                    f"Ollama did not get {name!r} in {_TRIES} tries: {broken}; what it has is kept, "
                    f"so try again later: ollama pull {name}"
                ) from None
            tell(Progress(note=f"{broken}; going on where it was"))
        else:
            return


def pull_in_time(model: ModelConfig, seconds: float, *, trusted: bool = True) -> None:
    """Fetches a model that a call waits for (`auto_pull: true`).

    Raises:
        LocalModelError: as `pull`, or it was not there in time; what has come is kept.
    """
    until = time.monotonic() + seconds

    def report(_: Progress) -> None:
        if time.monotonic() > until:
            raise LocalModelError(
                f"{model.alias}: {model.name!r} was not pulled within the {seconds:.0f} s of this attempt; "
                f"what has come is kept, so go on with: ollama pull {model.name}"
            )

    logger().info("model_pull", model=model.name)
    with OllamaServer.of(model, trusted=trusted) as server:
        pull(server, model.name, report=report, patience=min(120.0, seconds), wait=seconds)


def _once(server: OllamaServer, name: str, report: Report, patience: float) -> None:
    import httpx
    from ollama import ResponseError

    status = ""
    try:
        with server.client(silence=patience) as client, closing(client.pull(name, stream=True)) as steps:
            for step in _moving(steps, patience):
                status = server.redact(step.status or "")
                _check_room(server, step)
                report(Progress(note=status, done=step.completed or 0, total=step.total))
    except ResponseError as error:
        mend = next((mend for words, mend in _HOPELESS.items() if words in error.error), None)
        if mend:
            raise LocalModelError(f"Ollama cannot pull {name!r}: {server.redact(error.error)}; {mend}") from None
        raise _BrokenError(server.redact(error.error)) from None
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise unreachable(server.url, error) from None
    except httpx.TimeoutException:
        raise _BrokenError(f"nothing came for {patience:g} seconds") from None
    except (httpx.HTTPError, ValueError) as error:
        raise _BrokenError(f"the connection to Ollama broke ({type(error).__name__})") from None
    if status != "success":
        raise _BrokenError("Ollama stopped before it was done")


def _moving(steps: Iterator[ProgressResponse], patience: float) -> Iterator[ProgressResponse]:
    """The steps, as long as they get somewhere: a stuck download goes on reporting the same number."""
    last, since = None, time.monotonic()
    for step in steps:
        here = (step.status, step.completed)
        if here != last:
            last, since = here, time.monotonic()
        elif time.monotonic() - since > patience:
            raise _BrokenError(f"no progress for {patience:g} seconds")
        yield step


def _check_room(server: OllamaServer, step: ProgressResponse) -> None:
    folder = _models_folder()
    if step.total is None or folder is None or not is_loopback(server.url):
        return
    missing, free = step.total - (step.completed or 0), shutil.disk_usage(folder).free
    if missing > free:
        raise LocalModelError(
            f"no room: {missing / 1e9:.1f} GB are missing of the model, and {folder} has {free / 1e9:.1f} GB free; "
            f"remove a model (ollama rm NAME), or move the folder (OLLAMA_MODELS)"
        )


def _models_folder() -> Path | None:
    """Where a server on this machine most likely keeps its models; None where it cannot be seen."""
    named = os.environ.get("OLLAMA_MODELS")
    places = map(os.path.expanduser, [named] if named else ["/usr/share/ollama/.ollama/models", "~/.ollama/models"])
    return next((folder for folder in map(Path, places) if folder.is_dir()), None)
