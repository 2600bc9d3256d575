"""The whole program in folders that it may not write to: for `test_read_only.py`.

Run as `read_only_program.py FOLDER`: prints, for a home that was never used and for one that was, how each thing that
was tried ended and what it said, and what came on standard error.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import sys
import tempfile
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import tiny_model

from testronaut_llm import LLMError, LLMManager
from testronaut_llm.cli import main as run_command

_PR_CAPBSET_DROP = 24
_OVERRIDES = (1, 2, 3)
"""Linux capabilities that let root pass over a file's mode: DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER."""

COMMANDS = (
    ("run", "t", "Say hello."),
    ("run", "t", "Say hello.", "--stream", "--no-cache"),
    ("route", "t", "Say hello."),
    ("check",),
    ("compare", "Say hello.", "--models", "m", "--task", "t"),
    ("spend",),
    ("spend", "--html", "spend.html"),
    ("spend", "prune", "--older-than", "1d"),
    ("cache", "stats"),
    ("cache", "clear", "--yes"),
    ("cache", "export", "answers.jsonl"),
    ("config", "show"),
    ("config", "set", "tasks.t.max_tokens", "7"),
    ("init", "--force"),
    ("trust",),
    ("models", "list"),
    ("models", "pull", "embedded/tiny-random"),
    ("models", "remove", "--older-than", "30d", "--yes"),
    ("prices", "show", "m"),
    ("prices", "update", "table.json"),
    ("export", "litellm-proxy", "--out", "proxy.yaml"),
)


def obey_modes() -> None:
    """Gives up, for this process and what it starts, root's power to write where the mode forbids it."""
    libc = ctypes.CDLL(None)
    for capability in _OVERRIDES:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def attempt(work: object) -> tuple[int, str]:
    try:
        return 0, str(work())  # type: ignore[operator]
    except LLMError as error:
        return 1, f"{error.code}: {error}"
    except BaseException:
        return -1, traceback.format_exc()


def command(arguments: tuple[str, ...]) -> tuple[int, str]:
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


def everything(place: Path, home: Path) -> dict[str, tuple[int, str]]:
    """What came of everything that the program can do there."""
    os.environ["TESTRONAUT_LLM_HOME"] = str(home)
    os.chdir(place)
    found: dict[str, tuple[int, str]] = {}
    with LLMManager("llm.yaml") as llm:
        found["complete"] = attempt(lambda: llm.complete("t", "hi").text)
        found["again"] = attempt(lambda: llm.complete("t", "hi").text)
        found["stream"] = attempt(lambda: "".join(llm.stream("t", "hello")))
        found["paid"] = attempt(lambda: llm.complete("t", "hi", max_cost="0.5", cache="off").text)
        found["batch"] = attempt(lambda: [type(one).__name__ for one in llm.batch("t", ["a", "b"])])
    for arguments in COMMANDS:
        found[" ".join(arguments)] = command(arguments)
    return found


def lock(folder: Path, *, writable: bool = False) -> None:
    """Takes the right to write from a folder and all in it, or gives it back."""
    for one in [folder, *folder.rglob("*")]:
        one.chmod((0o500 if one.is_dir() else 0o400) | (0o200 if writable else 0))


def main(folder: Path) -> None:
    tiny_model.offer(Path(tempfile.mkdtemp()))
    unused, used, free, locked = (folder / name for name in ("unused", "used", "free", "locked"))
    results = []
    everything(free, used)
    for home in (unused, used):
        lock(home)
        lock(locked)
        said = io.StringIO()
        with redirect_stderr(said):
            found = everything(locked, home)
        results.append((found, said.getvalue()))
        lock(home, writable=True)
        lock(locked, writable=True)
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
