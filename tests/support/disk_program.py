"""A program on a disk that is full: for `test_full_disk.py`.

Run as `disk_program.py FILE BYTES`: no file may grow beyond so many bytes, whoever writes it.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path

import tiny_model

from testronaut_llm import LLMError, LLMManager
from testronaut_llm.config.edit import set_value
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


def main(file: str, size: int) -> None:
    load_litellm()
    tiny_model.offer(Path(file).parent)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    before = Path(file).read_text()
    found: dict[str, str] = {}
    with LLMManager(file) as llm:
        found["first"] = attempt(lambda: llm.complete("t", "hi"))
        found["second"] = attempt(lambda: llm.complete("t", "hi"))
        found["paid"] = attempt(lambda: llm.complete("t", "hi", max_cost="0.5", cache="off"))
        found["stream"] = attempt(lambda: list(llm.stream("t", "hello")))
        found["spend"] = attempt(llm.spend)
    found["pull"] = attempt(lambda: fetch("tiny-random", store=ModelStore()))
    found["set"] = attempt(lambda: set_value(file, "tasks.t.max_tokens", "7"))
    found["whole"] = str(Path(file).read_text() in (before, before.replace('"max_tokens": 5', '"max_tokens": 7')))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
