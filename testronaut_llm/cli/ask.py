"""`run`, `classify`, `route` and `compare`: answer a prompt, show which models a task would ask, compare models."""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

import testronaut_llm
from testronaut_llm.cli import options, screen
from testronaut_llm.errors import ConfigError, InvalidRequestError
from testronaut_llm.records import Answer, Route
from testronaut_llm.support.text import counted, few

if TYPE_CHECKING:
    from testronaut_llm.methods.compare import Comparison
    from testronaut_llm.prompts import Prompt


def run(
    task: options.TaskName,
    prompt: options.PromptText = None,
    file: options.PromptFile = None,
    schema: options.SchemaFile = None,
    model: options.Model = None,
    system: Annotated[str | None, typer.Option(help="System text, in place of the task's.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    max_cost: options.MaxCost = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it arrives.")] = False,
    cache: options.CacheOption = None,
    no_cache: options.NoCache = False,
    batch: Annotated[Path | None, typer.Option(help='Ask each line: a JSON string, messages, {"prompt": ...}.')] = None,
    out: Annotated[Path | None, typer.Option(help="Where --batch adds answers; those there are not asked.")] = None,
    concurrency: Annotated[int, typer.Option(help="Lines of --batch that are asked concurrently.")] = 8,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what --batch would cost; send nothing.")] = False,
    summary: options.Summary = None,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
) -> None:
    """Ask a task and print the answer; or ask a file of prompts and write a file of answers.

    Example: git --help | testronaut-llm run cli_analysis - --schema tree.json
    """
    from testronaut_llm.cli.batch import estimate_batch, run_batch, show_estimate

    given: dict[str, Any] = {"system": system, "model": model, "max_tokens": max_tokens, "max_cost": max_cost}
    given |= {"schema": options.read_schema(schema), "cache": options.cache_mode(cache, no_cache)}
    if dry_run and (batch is None or prompt or file or stream or summary):
        hint = "; `route` estimates a single prompt" if batch is None else ""
        raise InvalidRequestError(
            f"--dry-run goes with --batch FILE, without a prompt, --file, --stream and --summary{hint}"
        )
    if not dry_run and (batch or out) and (batch is None or out is None or prompt or file or stream):
        raise InvalidRequestError("--batch FILE and --out FILE go together, without a prompt, --file and --stream")
    text = "" if batch else options.read_prompt(prompt, file)
    failed = Counter[int]()
    with options.asking(config, summary, f"run {task}") as llm:
        if batch is None:
            _one(llm, task, text, given, stream=stream, as_json=as_json)
        elif dry_run:
            found = estimate_batch(llm, task, batch, out, given=given)
            screen.out_json(found) if as_json else show_estimate(str(batch), found)
            failed.update(map(screen.code_of, found.errors.values()))  # as the run itself
        elif out:
            failed = run_batch(llm, task, batch, out, concurrency=concurrency, given=given)
    if failed:
        raise typer.Exit(failed.popitem()[0] if len(failed) == 1 else screen.FAILED)


def _one(
    llm: testronaut_llm.LLMManager, task: str, text: str, given: dict[str, Any], *, stream: bool, as_json: bool
) -> None:
    from testronaut_llm.cli.models import offer

    offer(llm, task, given["model"])
    answer = _streamed(llm.stream(task, text, **given), silent=as_json) if stream else llm.complete(task, text, **given)
    try:
        if as_json:
            screen.out_json(answer)
        elif not stream:
            indented = given["schema"] is not None and sys.stdout.isatty()
            said = json.dumps(answer.parsed, ensure_ascii=False, indent=2) if indented else answer.text
            screen.out(said, is_answer=True)
    except screen.CannotPrintError as error:
        error.add_note("the answer is in the cache, unless the cache is off: run the command again")
        raise
    source = "from the cache, " if answer.cached else ""
    tokens = f"{answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens"
    tokens += f", {counted(answer.masked, 'secret')} masked" if answer.masked else ""
    screen.note(
        f"{answer.model} ({answer.provider_model}): {source}{tokens}, {options.bill(llm)}, {answer.latency:.1f} s"
    )


def _streamed(stream: testronaut_llm.Stream[Any], *, silent: bool) -> Answer[Any]:
    """Prints the pieces and ends the line, even if the stream fails."""
    begun = False
    with stream as pieces:
        try:
            for piece in pieces:
                if not silent:
                    begun = True
                    screen.out(piece, end="", is_answer=True)
        finally:
            if begun:
                screen.out("")
        return pieces.answer


def classify(
    task: options.TaskName,
    prompt: options.PromptText = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", help="A label, or LABEL=DESCRIPTION.")] = None,
    expect: Annotated[str | None, typer.Option(help="Exit with 1 if the verdict is another label.")] = None,
    votes: Annotated[int, typer.Option(help="Most answers of a model without log-probabilities.")] = 3,
    min_confidence: Annotated[float, typer.Option(help="Ask the next better model if less sure, 0 to 1.")] = 0.0,
    file: options.PromptFile = None,
    model: options.Model = None,
    max_cost: options.MaxCost = None,
    cache: options.CacheOption = None,
    no_cache: options.NoCache = False,
    summary: options.Summary = None,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
) -> None:
    """Print the label that fits a prompt.

    Example: testronaut-llm classify result_verification - --label passed --label failed --expect passed < report.txt
    """
    described = {name.strip(): about.strip() for name, _, about in (one.partition("=") for one in label or ())}
    if len(described) < len(label or ()):
        raise InvalidRequestError("--label names one label twice; expected labels that differ")
    if expect is not None and (expect := expect.strip()) not in described:
        raise InvalidRequestError(f"--expect is {expect!r}; expected one of {', '.join(described) or 'the labels'}")
    given: dict[str, Any] = {"votes": votes, "min_confidence": min_confidence, "model": model, "max_cost": max_cost}
    given["cache"] = options.cache_mode(cache, no_cache)
    text = options.read_prompt(prompt, file)
    with options.asking(config, summary, f"classify {task}") as llm:
        found = llm.classify(task, text, described, **given)
        screen.out_json(found) if as_json else screen.out(found.label)
        shares = ", ".join(f"{one} {share:.0%}" for one, share in found.probabilities.items())
        asked = " -> ".join(one.model for one in found.verdicts)
        if found.error is not None:
            screen.note(f"a later request failed ({found.error.code}): {found.error}")
        screen.note(
            f"{asked}: {shares} (by {found.method}, {counted(len(found.answers), 'answer')}), {options.bill(llm)}"
        )
    if expect is not None and found.label != expect:
        raise typer.Exit(screen.FAILED)


def route(
    task: options.TaskName,
    prompt: Annotated[str | None, typer.Argument(help="The prompt to estimate for; - reads it from stdin.")] = None,
    file: options.PromptFile = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Estimate for this model, as `run -m`.")] = None,
    params: options.Params = False,
    show_masked: Annotated[
        bool, typer.Option("--show-masked", help="Also print the prompt with its secrets masked.")
    ] = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
) -> None:
    """Show which models a task would ask, in which order, at what cost, and why. Sends nothing."""
    from testronaut_llm.options import call_of

    text = "" if prompt is None and file is None else options.read_prompt(prompt, file)
    with testronaut_llm.LLMManager(config) as llm:
        if params:
            llm.warm_up()
        found = llm.route(task, text, model=model)
        sent = call_of(llm.config, task, text or "?", {"model": model}).messages if show_masked else ()
    if as_json:
        shown = [{one.name: getattr(each, one.name) for one in fields(each) if one.repr} for each in found.candidates]
        messages = {"messages": sent} if show_masked else {}
        screen.out_json({"task": found.task, "strategy": found.strategy, "candidates": shown, **messages})
    else:
        show_route(found)
        for one in sent:
            screen.out(f"{one.role}: {one.content}")


def show_route(found: Route, *, drawn: bool | None = None) -> None:
    """Prints the candidates as a table, with seconds if a local model was measured by `models bench`."""
    measured = any(one.est_seconds is not None for one in found.candidates)
    rows = []
    for one in found.candidates:
        tokens = "?" if one.est_tokens is None else f"{one.est_tokens:,} + {one.est_completion_tokens or 0:,}"
        seconds = [one.est_seconds and f"{one.est_seconds:.2g}"] if measured else []
        why = [one.reason]
        if one.dropped_params:
            why.append(f"does not take {', '.join(one.dropped_params)}")
        if one.limits:
            why.append(f"under {', '.join(one.limits)}")
        rows.append([one.alias, tokens, one.est_cost, one.worst_cost, *seconds, one.kept, "; ".join(why)])
    columns = ("model", "tokens", "cost", "at most", *(["seconds"] if measured else []), "selected", "why")
    screen.table(f"{found.task}: {found.strategy}", columns, rows, drawn=drawn)
    if not found.kept:
        screen.note("no model would be asked, for the reasons above")
    from testronaut_llm.config.sections import Secrets

    modes = {mode: [one.alias for one in found.candidates if one.secrets == mode] for mode in get_args(Secrets)}
    screen.note("secrets: " + "; ".join(f"{mode} ({', '.join(names)})" for mode, names in modes.items() if names))


def compare(
    prompt: Annotated[str | None, typer.Argument(help="The prompt.")] = None,
    models: Annotated[str, typer.Option("--models", "-m", help="The models to ask, separated by commas.")] = "",
    task: Annotated[str | None, typer.Option(help="The task whose settings are used (default: `default`).")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Prompts, one JSON a line, as `run --batch`.")
    ] = None,
    schema: options.SchemaFile = None,
    cache: options.CacheOption = None,
    no_cache: options.NoCache = False,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
) -> None:
    """Ask several models the same prompts; show answers, agreement, cost and time.

    Example: testronaut-llm compare 'What does ls do?' --models sonnet,qwen
    """
    if (prompt is None) == (file is None):
        raise InvalidRequestError("give the prompt as an argument, or a file of prompts with --file; one of them")
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not names:
        raise InvalidRequestError("give the models to ask, such as --models sonnet,qwen")
    prompts: list[Prompt] = [one for *_, one in options.prompts_of(file)] if file else [str(prompt)]
    if not prompts:
        raise ConfigError(f"{file} holds no prompt; expected one JSON a line", file=str(file))
    mode = options.cache_mode(cache, no_cache)
    with options.asking(config) as llm:
        found = llm.compare(task, prompts, models=names, schema=options.read_schema(schema), cache=mode)
    screen.out_json(found) if as_json else _show_comparison(found)
    screen.note(f"this run cost {options.bill(llm)}")
    if not any(totals.answered for totals in found.totals):
        raise typer.Exit(screen.FAILED)


def _show_comparison(found: Comparison) -> None:
    from testronaut_llm.prompts import messages_of

    for number, one in enumerate(found.prompts, 1):
        text = messages_of(one.prompt, None)[-1].content
        rows = [
            (model, result.text if isinstance(result, Answer) else f"failed ({result.code}): {result}")
            for model, result in one.results.items()
        ]
        screen.table(f"{number}. {textwrap.shorten(text, 80, placeholder='...')}", ("model", "answer"), rows)
        same, words = one.agreement, "fewer than two answers"
        if same is not None:
            kinds = {"same text": same.exact, "same JSON values": same.json, "same words": same.normalised}
            words = next((kind for kind, holds in kinds.items() if holds), "none")
            if same.different:
                words = f"{len(same.same)} of {len(same.same) + len(same.different)} values, not {few(same.different)}"
        screen.out(f"agreement: {words}\n")
    columns = ("model", "answered", "failed", "valid", "cost", "seconds")
    totals = [
        (one.model, one.answered, one.failed, "-" if one.valid is None else f"{one.valid:.0%}", one.cost, one.latency)
        for one in found.totals
    ]
    screen.table("all prompts", columns, totals)
