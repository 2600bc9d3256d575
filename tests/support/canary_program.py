"""A program for `test_canary.py`: does everything with keys set, and logs all that it can.

Run as `canary_program.py LLM_YAML`; the keys are in the environment, and in files beside the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import sys
import traceback
from pathlib import Path

import structlog

from testronaut_llm import LLMError, LLMManager
from testronaut_llm.cli import main


def say(*values: object) -> None:
    """Prints the values."""
    sys.stdout.write("\n".join(map(str, values)) + "\n")


def tell(error: LLMError) -> None:
    """Prints all facts of an error, here and in another process."""
    again = pickle.loads(pickle.dumps(error))
    seen = "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format())
    say(str(error), repr(error), vars(error), seen, vars(again), repr(again), pickle.dumps(error))
    for attempt in getattr(error, "attempts", ()):
        say(repr(attempt))


async def ask(llm: LLMManager, mode: str, **given: object) -> None:
    """Makes a call, and prints its attempts or its error."""
    try:
        if mode == "complete":
            say(llm.complete("t", "hi", **given).attempts)
        elif mode == "acomplete":
            say((await llm.acomplete("t", "hi", **given)).attempts)
        elif mode == "stream":
            list(llm.stream("t", "hi", **given))
        elif mode == "astream":
            async with llm.astream("t", "hi", **given) as stream:
                [piece async for piece in stream]
        else:
            llm.embed("t", "hi", **given)
    except LLMError as error:
        tell(error)


def everything(file: str, key: str) -> None:
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    structlog.configure(processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory())
    with LLMManager(file) as llm:
        for model in llm.config.models:
            for mode in ("complete", "stream", *(("acomplete", "astream", "embed") if model == "echo" else ())):
                asyncio.run(ask(llm, mode, model=model, metadata={"note": f"asked with {key}"}))
            say(repr(llm.config.model(model)), llm.route("t", "hi", model=model))
        say(repr(llm.config), llm.config.model_dump_json(), llm.spend())
    for words in COMMANDS:
        sys.argv = ["testronaut-llm", *words.split(), *(() if "stats" in words else ("--config", file))]
        with contextlib.suppress(SystemExit):
            main()


COMMANDS = (
    *("check --json --live", "check", "route t hi --json", "run t hi --json --model echo"),
    *("compare hi --models echo,header --json", "config show", "config show --json", "spend --json"),
    *("cache stats --json", f"cache export {Path(sys.argv[1]).with_name('export.jsonl')}"),
)

if __name__ == "__main__":
    everything(sys.argv[1], os.environ["OPENAI_API_KEY"])
