"""A program for `test_canary.py`, `canary_program.py LLM_YAML`: does everything with keys set, and logs all."""

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
from manager_kit import MODES, ask

from testronaut_llm import LLMError, LLMManager
from testronaut_llm.cli import main


def say(*values: object) -> None:
    sys.stdout.write("\n".join(map(str, values)) + "\n")


def tell(error: LLMError) -> None:
    again, seen = pickle.loads(pickle.dumps(error)), "".join(traceback.format_exception(error))  # as in another process
    say(str(error), repr(error), vars(error), seen, vars(again), repr(again), pickle.dumps(error))
    say(*map(repr, error.attempts))


def call(llm: LLMManager, model: str, mode: str, key: str) -> None:
    """Prints all facts of an answer; its text only if it is what a harmless server says."""
    prompt, metadata = "hello" if mode == "stream" else "hi", {"note": f"asked with {key}"}
    try:
        answer = asyncio.run(ask(llm, mode, prompt, model=model, metadata=metadata))
    except LLMError as error:
        tell(error)
    else:
        say(*[repr(answer), (answer.text, answer.cached)] if answer.text == "fine" else [repr(answer.attempts)])


def everything(file: str, key: str) -> None:
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    structlog.configure(processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory())
    with LLMManager(file) as llm:
        for model in llm.config.models:
            twice = 2 if model.startswith("fields") else 1  # the second comes from the cache
            for mode in MODES if model == "echo" else ("complete", "stream") * twice:
                call(llm, model, mode, key)
            say(repr(llm.config.model(model)), llm.route("t", "hi", model=model))
        say(repr(llm.config), llm.config.model_dump_json(), llm.spend())
        try:
            llm.embed("t", "hi", model="echo")
        except LLMError as error:
            tell(error)
    for line in (
        *("check --json --live", "check", "route t hi --json", "run t hi --json --model echo", "config show"),
        *("compare hi --models echo,header --json", "config show --json", "spend --json", "cache stats --json"),
        f"cache export {Path(file).with_name('export.jsonl')}",
    ):
        sys.argv = ["testronaut-llm", *line.split(), "--config", file]
        with contextlib.suppress(SystemExit):
            main()


if __name__ == "__main__":
    everything(sys.argv[1], os.environ["OPENAI_API_KEY"])
