"""A program for `test_read_only.py`: does everything while files cannot be written, and prints the results as JSON.

`unwritable_program.py FOLDER SIZE...` locks the folders in FOLDER, for a home that was never used and for one that was.
Then it limits the size of files to each SIZE (bytes), in the folder of that name.
Each result is ({what was tried: (exit code, words)}, standard error).
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import tiny_model

from testronaut_llm import LLMError, LLMManager
from testronaut_llm.cli import main as run_command
from testronaut_llm.config.source import set_value
from testronaut_llm.gateway.gateway import load_litellm
from testronaut_llm.local.model_downloader import fetch
from testronaut_llm.local.model_store import ModelStore

Found = dict[str, tuple[int, str]]
_PR_CAPBSET_DROP = 24
_OVERRIDES = (1, 2, 3)
"""Linux capabilities that let root pass over a file's mode: DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER."""

COMMANDS = [
    shlex.split(line)
    for line in (
        *("run t 'Say hello.'", "run t 'Say hello.' --stream --no-cache", "route t 'Say hello.'", "check"),
        *("compare 'Say hello.' --models m --task t", "spend", "spend --html spend.html"),
        *("spend prune --older-than 1d", "cache stats", "cache clear --yes", "cache export answers.jsonl"),
        *("config show", "config set tasks.t.max_tokens 7", "init --force", "trust", "models list"),
        *("models pull embedded/tiny-random", "models remove --older-than 30d --yes", "prices show m"),
        *("prices update table.json", "export litellm-proxy --out proxy.yaml"),
    )
]


def obey_modes() -> None:
    """Gives up root's power to write against file modes, for this process and its children."""
    libc = ctypes.CDLL(None)
    for capability in _OVERRIDES:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def attempt(work: Callable[[], object]) -> tuple[int, str]:
    try:
        return 0, str(work())
    except LLMError as error:
        return 1, f"{error.code}: {error}"
    except BaseException:
        return -1, traceback.format_exc()


def command(arguments: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    sys.argv = ["testronaut-llm", *arguments]
    with redirect_stdout(said), redirect_stderr(said):
        try:
            run_command()
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
        except BaseException:
            return -1, traceback.format_exc()
    return 0, said.getvalue()


def calls(file: Path, home: Path) -> Found:
    """Returns the results of calls with this `llm.yaml` and home."""
    os.environ["TESTRONAUT_LLM_HOME"] = str(home)
    found: Found = {}
    with LLMManager(file) as llm:
        found["complete"] = attempt(lambda: llm.complete("t", "hi").text)
        found["again"] = attempt(lambda: llm.complete("t", "hi").text)
        found["stream"] = attempt(lambda: "".join(llm.stream("t", "hello")))
        found["paid"] = attempt(lambda: llm.complete("t", "hi", max_cost="0.5", cache="off").text)
        found["batch"] = attempt(lambda: [type(one).__name__ for one in llm.batch("t", ["a", "b"])])
    return found


def everything(place: Path, home: Path) -> Found:
    """Returns the results of calls and commands in this folder."""
    os.chdir(place)
    return {**calls(Path("llm.yaml"), home), **{" ".join(words): command(words) for words in COMMANDS}}


def watched(work: Callable[[], Found]) -> tuple[Found, str]:
    said = io.StringIO()
    with redirect_stderr(said):
        found = work()
    return found, said.getvalue()


def lock(folder: Path, *, writable: bool = False) -> None:
    """Removes the right to write from a folder and all in it, or restores it."""
    for one in [folder, *folder.rglob("*")]:
        one.chmod((0o500 if one.is_dir() else 0o400) | (0o200 if writable else 0))


def on_locked_folders(folder: Path) -> list[tuple[Found, str]]:
    unused, used, free, locked = (folder / name for name in ("unused", "used", "free", "locked"))
    results = []
    everything(free, used)
    for home in (unused, used):
        lock(home)
        lock(locked)
        results.append(watched(lambda home=home: everything(locked, home)))
        lock(home, writable=True)
        lock(locked, writable=True)
    return results


def on_a_full_disk(folder: Path) -> Found:
    file = folder / "llm.yaml"
    before = file.read_text()
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(folder.name), resource.RLIM_INFINITY))
    found = calls(file, folder / "home")
    found["report"] = command(["spend", "--config", str(file)])
    found["pull"] = attempt(lambda: fetch("tiny-random", store=ModelStore()))
    found["set"] = attempt(lambda: set_value(str(file), "tasks.t.max_tokens", "7"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    is_whole = file.read_text() in (before, before.replace('"max_tokens": 10', '"max_tokens": 7'))
    return {**found, "whole": (int(not is_whole), "")}


def main(folder: str, *sizes: str) -> None:
    load_litellm()
    tiny_model.offer(Path(tempfile.mkdtemp()))
    results = on_locked_folders(Path(folder))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    results += [watched(lambda size=size: on_a_full_disk(Path(folder, size))) for size in sizes]
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
