"""One child process that serves one model: started, asked whether it is busy, explained when it died, ended."""

from __future__ import annotations

import contextlib
import importlib.machinery
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import embedded_child
from testronaut_llm.local.download import pull_again
from testronaut_llm.providers.network import client_settings
from testronaut_llm.providers.row import Missing

KEPT_LINES, LINE_LENGTH = 40, 1000
KEPT_VARIABLES = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
)
_LOADED: set[str] = set()
"""Places that llama.cpp could be loaded from: that does not change while this process lives."""


class EmbeddedProcess:
    """A running child. Not thread-safe in starting and stopping: its owner holds a lock.

    `settings` are what `embedded_child` reads. Nobody without `token` gets an answer at `address`.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.name, self.settings = name, settings
        self.token, self.address = secrets.token_urlsafe(24), ""
        self._said: deque[str] = deque(maxlen=KEPT_LINES)
        self._settled = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._unwanted = False
        self._supervisor = threading.Thread(target=self._supervise, name=f"embedded-{name}", daemon=True)

    def start(self, timeout: float) -> None:
        """Returns when the model is loaded and serves.

        Raises:
            LocalModelError: it did not start within `timeout` seconds, or said why it cannot.
        """
        self._supervisor.start()
        in_time = self._settled.wait(timeout)
        if self.address:
            return
        reason = self._death(slice(2)) if in_time else f"it was not ready after {timeout:g} s"
        self.stop()
        raise LocalModelError(
            f"embedded/{self.name} could not be started: {reason}. The file: {self.settings['model']}. "
            f"If it is damaged: {pull_again(self.name)}",
            provider="embedded",
        )

    @property
    def pid(self) -> int:
        """The number of the process; 0 before it was started."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """True if the process runs."""
        return self._process is not None and self._process.poll() is None

    def busy(self) -> bool:
        """True if a request is being computed, or if the server does not answer at once."""
        import httpx

        key = {"Authorization": f"Bearer {self.token}"}
        try:
            slots = httpx.get(f"{self.address}/slots", headers=key, timeout=2, **client_settings(self.address)).json()
            return any(slot["is_processing"] for slot in slots)
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            return False
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return True

    def crash(self, patience: float = 1.0) -> LocalModelError | None:
        """Returns why the process died, or None if it lives; waits up to `patience` seconds for its death."""
        self._supervisor.join(patience)
        if self.alive:
            return None
        return LocalModelError(
            f"embedded/{self.name}: the process that served it ended: {self._death(slice(-2, None))}. The next call "
            "starts it again. If it happens again, give it a smaller num_ctx in llm.yaml or name a smaller model",
            provider="embedded",
        )

    def stop(self) -> None:
        """Ends the process; whatever it was computing is lost."""
        self._unwanted = True  # a process that is being started at this moment is ended by its supervisor
        if self._process is not None:
            _close(self._process)
            try:
                self._process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._supervisor.join(timeout=5)

    def _supervise(self) -> None:
        # The thread that starts the child must live as long as the child: Linux ends it with the thread, not only
        # with the process (PR_SET_PDEATHSIG).
        try:
            self._process = process = self._spawn()
        except OSError as error:
            self._said.append(str(error))
            self._settled.set()
            return
        if self._unwanted:
            process.kill()
        output = process.stdout
        assert output is not None  # noqa: S101 - a pipe was asked for
        with output:
            while line := output.readline(LINE_LENGTH):
                text = line.decode("utf-8", "replace").rstrip().replace(self.token, "***")
                if text.startswith(embedded_child.READY):
                    self.address = text.removeprefix(embedded_child.READY)
                    self._settled.set()
                else:
                    self._said.append(text)
        process.wait()
        _close(process)
        self._settled.set()

    def _spawn(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
            [sys.executable, "-P", embedded_child.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # a ctrl-C in the terminal is for the parent, which may want to go on
        )
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        told = {**self.settings, "token": self.token, "parent": os.getpid()}
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(told).encode() + b"\n")
            process.stdin.flush()
        return process

    def _death(self, lines: slice) -> str:
        """Returns how the process ended, with some lines of its output: the first ones explain a failed start."""
        status = self._process.returncode if self._process else None
        if status == -9:
            how = "killed by the system (signal 9), most often for want of memory"
        elif status is not None and status < 0:
            how = f"it crashed ({signal.Signals(-status).name})"
        else:
            how = f"it gave up (status {status})"
        said = [line for line in self._said if line][lines]
        return f"{how}; it said: {' | '.join(said)}" if said else how


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _environment() -> dict[str, str]:
    """Returns what the child needs and nothing else: it has no use for the user's keys."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    spec = importlib.machinery.PathFinder.find_spec("xllamacpp")
    return kept | {"PYTHONPATH": str(Path(spec.origin).parents[1]) if spec and spec.origin else ""}


def library_fault() -> Missing | None:
    """Returns why llama.cpp cannot be loaded and how to fix it; None where it can be.

    It is loaded in a process of its own; success is remembered.
    """
    environment = _environment()
    if (place := environment["PYTHONPATH"]) in _LOADED:
        return None
    command = [sys.executable, "-P", "-c", "import xllamacpp"]
    try:
        tried = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
    except OSError:  # a start will say why no process can be had
        return None
    if tried.returncode == 0:
        _LOADED.add(place)
        return None
    said = tried.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:200] or f"status {tried.returncode}"
    if missing := re.search(r"(lib[^\s/:]+)\.so\.(\d+): cannot open shared object", said):
        name, number = missing[1].replace("_", "-"), missing[2]
        package = f"{name}-{number}" if name[-1].isdigit() else f"{name}{number}"  # as Debian names them all
        return Missing(
            f"llama.cpp cannot be loaded, since the library {missing[1]}.so.{number} is missing",
            f"apt-get install {package} (Debian, Ubuntu; elsewhere the package that holds it)",
        )
    how = f"{signal.Signals(-tried.returncode).name}, is it made for this processor?" if tried.returncode < 0 else said
    return Missing(f"llama.cpp cannot be loaded ({how})", "pip install --force-reinstall xllamacpp, or use Ollama")
