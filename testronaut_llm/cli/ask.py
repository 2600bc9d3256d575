"""`run`: a task and a prompt in, the answer out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.models import offer
from testronaut_llm.cli.options import AsJson, CacheModeOption, ConfigFile, PromptFile, read_prompt, read_schema
from testronaut_llm.cli.spend import bill, billed
from testronaut_llm.cli.streams import CannotPrintError
from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.records import Answer


def run(
    task: Annotated[str, typer.Argument(help="A task of llm.yaml, such as cli_analysis.")],
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads it from stdin.")] = None,
    file: PromptFile = None,
    schema: Annotated[Path | None, typer.Option(help="JSON Schema file that the answer has to obey.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Ask this model, whatever the route.")] = None,
    system: Annotated[str | None, typer.Option(help="System text, in place of the task's.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    max_cost: Annotated[str | None, typer.Option(help="Most that the call may cost, in USD.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer while it comes.")] = False,
    cache: CacheModeOption = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="The same as --cache off.")] = False,
    batch: Annotated[Path | None, typer.Option(help='Ask each line: a JSON string, messages, {"prompt": ...}.')] = None,
    out: Annotated[Path | None, typer.Option(help="Where --batch writes; the same command goes on with it.")] = None,
    concurrency: Annotated[int, typer.Option(help="How many lines of --batch are asked at once.")] = 8,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Ask a task, and print the answer; or ask a file of prompts, and write a file of answers.

    Example: git --help | testronaut-llm run cli_analysis - --schema tree.json
    """
    options: dict[str, Any] = {
        "system": system,
        "schema": read_schema(schema),
        "model": model,
        "max_tokens": max_tokens,
        "max_cost": max_cost,
        "cache": "off" if no_cache else cache,
    }
    if batch is None and out is None:
        _one(task, read_prompt(prompt, file), options, stream=stream, as_json=as_json, config=config)
        return
    if batch is None or out is None or prompt or file or stream:
        raise InvalidRequestError("--batch FILE and --out FILE go together, without a prompt, --file and --stream")
    from testronaut_llm.cli.batch import run_batch

    with testronaut_llm.LLMManager(config) as llm, billed(llm):
        failed = run_batch(llm, task, batch, out, concurrency=concurrency, options=options)
    if failed:
        raise typer.Exit(screen.FAILED)


def _one(task: str, text: str, options: dict[str, Any], *, stream: bool, as_json: bool, config: Path | None) -> None:
    with testronaut_llm.LLMManager(config) as llm, billed(llm):
        offer(llm, task, options["model"])
        if stream:
            answer = _streamed(llm.stream(task, text, **options), silent=as_json)
        else:
            answer = llm.complete(task, text, **options)
    try:
        if as_json:
            screen.out_json(answer)
        elif not stream:
            screen.answer(answer.text)
    except CannotPrintError as error:
        error.add_note("the answer is kept in the cache, unless that is off: run the command again")
        raise
    tokens = f"{answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens"
    source = "from the cache, " if answer.cached else ""
    screen.note(f"{answer.model} ({answer.provider_model}): {source}{tokens}, {bill(llm)}, {answer.latency:.1f} s")


def _streamed(stream: testronaut_llm.Stream[Any], *, silent: bool) -> Answer[Any]:
    """Prints the pieces; a message about a stream that broke starts on a line of its own."""
    begun = False
    with stream as pieces:
        try:
            for one in pieces:
                if not silent:
                    begun = True
                    screen.answer(one, end="")
        finally:
            if begun:
                screen.out("")
        return pieces.answer
