"""A program on a disk that is full: for `test_read_only.py`.

Run as `disk_program.py FOLDER...`: each folder's name is a number of bytes, and no file may grow beyond it, whoever
writes it. Prints for each what came of everything, and what was said on standard error.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sys
from contextlib import redirect_stderr
from pathlib import Path

import tiny_model

from testronaut_llm import LLMError, LLMManager
from testronaut_llm.config.source import set_value
from testronaut_llm.gateway.gateway import load_litellm
from testronaut_llm.local.model_downloader import fetch
from testronaut_llm.local.model_store import ModelStore


def attempt(work: object) -> str:
    """What comes of it: `ok`, or the code of our error; anything else is a traceback."""
    try:
        work()  # type: ignore[operator]
    except LLMError as error:
        return f"{error.code}: {error}"
    return "ok"


def tried(folder: Path) -> dict[str, str]:
    """What comes of calls, downloads and edits under the limit."""
    file = folder / "llm.yaml"
    os.environ["TESTRONAUT_LLM_HOME"] = str(folder / "home")
    before = file.read_text()
    found: dict[str, str] = {}
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(folder.name), resource.RLIM_INFINITY))
    with LLMManager(file) as llm:
        found["first"] = attempt(lambda: llm.complete("t", "hi"))
        found["second"] = attempt(lambda: llm.complete("t", "hi"))
        found["paid"] = attempt(lambda: llm.complete("t", "hi", max_cost="0.5", cache="off"))
        found["stream"] = attempt(lambda: list(llm.stream("t", "hello")))
        found["spend"] = attempt(llm.spend)
    found["pull"] = attempt(lambda: fetch("tiny-random", store=ModelStore()))
    found["set"] = attempt(lambda: set_value(str(file), "tasks.t.max_tokens", "7"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    found["whole"] = str(file.read_text() in (before, before.replace('"max_tokens": 5', '"max_tokens": 7')))
    return found


def main(*folders: str) -> None:
    load_litellm()
    tiny_model.offer(Path(folders[0]).parent)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    results = []
    for folder in map(Path, folders):
        said = io.StringIO()
        with redirect_stderr(said):
            found = tried(folder)
        results.append((found, said.getvalue()))
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
