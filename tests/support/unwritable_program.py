"""A program for `test_unusable_files.py`: does everything while files cannot be written, and prints results as JSON.

`unwritable_program.py FOLDER SIZE...` locks the folders in FOLDER, for a home that was never used and for one that was.
Then it limits files to each SIZE, in that folder. A result is ({what was tried: (exit code, words)}, standard error).
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
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
COMMANDS = (
    *("run t Hello.", "run t Hello. --stream --no-cache", "route t Hello.", "check", "spend", "cache stats"),
    *("compare Hello. --models m --task t", "spend --html spend.html", "spend prune --older-than 1d"),
    *("cache clear --yes", "cache export answers.jsonl", "config show", "config set tasks.t.max_tokens 7", "trust"),
    *("init --force", "models list", "models pull embedded/tiny-random", "models remove --older-than 30d --yes"),
    *("prices show m", "prices update table.json", "export litellm-proxy --out proxy.yaml"),
)


def obey_modes() -> None:
    """Gives up root's power to write against file modes, for this process and its children."""
    drop = 24  # PR_CAPBSET_DROP
    for capability in (1, 2, 3):  # DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER
        ctypes.CDLL(None).prctl(drop, capability, 0, 0, 0)


def attempt(work: Callable[[], object]) -> tuple[int, str]:
    try:
        return 0, str(work())
    except SystemExit as end:
        return int(end.code or 0), ""
    except LLMError as error:
        return 1, f"{error.code}: {error}"
    except BaseException:
        return -1, traceback.format_exc()


def command(line: str) -> tuple[int, str]:
    sys.argv, said = ["testronaut-llm", *line.split()], io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code, failure = attempt(run_command)
    return code, failure or said.getvalue()


def calls(file: Path, home: Path) -> Found:
    os.environ["TESTRONAUT_LLM_HOME"] = str(home)
    with LLMManager(file) as llm:
        return {
            "complete": attempt(lambda: llm.complete("t", "hi").text),
            "again": attempt(lambda: llm.complete("t", "hi").text),
            "stream": attempt(lambda: "".join(llm.stream("t", "hello"))),
            "paid": attempt(lambda: llm.complete("t", "hi", max_cost="0.5", cache="off").text),
            "batch": attempt(lambda: [type(one).__name__ for one in llm.batch("t", ["a", "b"])]),
        }


def everything(place: Path, home: Path) -> Found:
    os.chdir(place)
    return {**calls(Path("llm.yaml"), home), **{line: command(line) for line in COMMANDS}}


def watched(work: Callable[..., Found], *given: Path) -> tuple[Found, str]:
    with redirect_stderr(said := io.StringIO()):
        found = work(*given)
    return found, said.getvalue()


def allow(mode: int, *folders: Path) -> None:
    """Sets the mode of these folders and of all in them; files cannot be executed."""
    for one in (one for folder in folders for one in [folder, *folder.rglob("*")]):
        one.chmod(mode if one.is_dir() else mode & 0o600)


def on_a_full_disk(folder: Path) -> Found:
    file, unlimited = folder / "llm.yaml", resource.RLIM_INFINITY
    before = file.read_text()
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(folder.name), unlimited))
    found = {
        **calls(file, folder / "home"),
        "report": command(f"spend --config {file}"),
        "pull": attempt(lambda: fetch("tiny-random", store=ModelStore())),
        "set": attempt(lambda: set_value(str(file), "tasks.t.max_tokens", "7")),
    }
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
    is_whole = file.read_text() in (before, before.replace('"max_tokens": 10', '"max_tokens": 7'))
    return {**found, "whole": (int(not is_whole), "")}


def main(folder: Path, *sizes: str) -> None:
    load_litellm()
    tiny_model.offer(Path(tempfile.mkdtemp()))
    results, place = [], folder / "locked"
    everything(folder / "free", folder / "used")
    for home in (folder / "unused", folder / "used"):
        allow(0o500, home, place)
        results.append(watched(everything, place, home))
        allow(0o700, home, place)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    results += [watched(on_a_full_disk, folder / size) for size in sizes]
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
