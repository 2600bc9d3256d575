"""`compare`: the same prompts asked of several models, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, CacheModeOption, ConfigFile, read_schema
from testronaut_llm.cli.route import money
from testronaut_llm.cli.spend import bill, billed
from testronaut_llm.errors import ConfigError, InvalidRequestError, LLMError
from testronaut_llm.records import Answer, CacheMode
from testronaut_llm.support.text import read_utf8

if TYPE_CHECKING:
    from testronaut_llm.compare import ComparedPrompt, Comparison, ModelTotals
    from testronaut_llm.prompts import Prompt

COLUMNS = ("model", "answer")
TOTALS = ("model", "answered", "failed", "obey the schema", "cost", "seconds")
_PATHS_SHOWN = 10


def compare(
    prompt: Annotated[str | None, typer.Argument(help="The prompt.")] = None,
    models: Annotated[str, typer.Option("--models", "-m", help="The models to ask, with commas between.")] = "",
    task: Annotated[str | None, typer.Option(help="A task of llm.yaml, for its settings (default: `default`).")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help='Prompts, one JSON a line: a string, or {"prompt": ...}.')
    ] = None,
    schema: Annotated[Path | None, typer.Option(help="JSON Schema file that the answers have to obey.")] = None,
    cache: CacheModeOption = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="The same as --cache off.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Ask several models the same, and show the answers, how far they agree, cost and time.

    Example: testronaut-llm compare "What does ls do?" --models sonnet,qwen
    """
    from testronaut_llm.llm_manager import LLMManager

    if (prompt is None) == (file is None):
        raise InvalidRequestError("give the prompt as an argument, or a file of prompts with --file; one of them")
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not names:
        raise InvalidRequestError("give the models to ask, such as --models sonnet,qwen")
    asked: str | Sequence[Prompt] = prompt if prompt is not None else _prompts(file)
    wanted = read_schema(schema)
    with LLMManager(config) as llm, billed(llm):
        mode = cast("CacheMode | None", "off" if no_cache else cache)
        found = llm.compare(task, asked, models=names, schema=wanted, cache=mode)
    if as_json:
        screen.out_json(found)
    else:
        _show(found)
    screen.note(f"this run cost {bill(llm)}")
    if not any(totals.answered for totals in found.totals):
        raise typer.Exit(screen.FAILED)


def _prompts(file: Path | None) -> list[Prompt]:
    from testronaut_llm.cli.batch_file import prompt_of

    lines = read_utf8(file).split("\n") if file is not None else []
    prompts = [prompt_of(f"{file}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise ConfigError(f"{file} holds no prompt; expected one JSON a line", file=str(file))
    return prompts


def _show(found: Comparison) -> None:
    for number, one in enumerate(found.prompts, 1):
        screen.table(_title(one, number), COLUMNS, [(model, _said(result)) for model, result in one.results.items()])
        screen.out(_agreement(one) + "\n")
    screen.table("all prompts", TOTALS, map(_row, found.totals))


def _title(one: ComparedPrompt, number: int) -> str:
    text = one.prompt if isinstance(one.prompt, str) else str(one.prompt[-1].get("content", ""))
    short = " ".join(text.split())
    return f"{number}. {short[:77] + '...' if len(short) > 80 else short}"


def _said(result: Answer[Any] | LLMError) -> str:
    return result.text if isinstance(result, Answer) else f"failed ({result.code}): {result}"


def _agreement(one: ComparedPrompt) -> str:
    found, failed = one.agreement, sum(not isinstance(result, Answer) for result in one.results.values())
    if found is None:
        return "agreement: fewer than two answers"
    if found.different:
        shown, more = found.different[:_PATHS_SHOWN], len(found.different) - _PATHS_SHOWN
        word = f"{len(found.same)} of {len(found.same) + len(found.different)} values, not {', '.join(shown)}"
        word += f" and {more} more" if more > 0 else ""
    elif found.exact:
        word = "exact"
    elif found.json:
        word = "the same JSON values"
    else:
        word = "but for white space, case and punctuation" if found.normalised else "none"
    return f"agreement: {word}" + (f" ({failed} failed)" if failed else "")


def _row(totals: ModelTotals) -> tuple[str, ...]:
    valid = "-" if totals.valid is None else f"{totals.valid:.0%}"
    counts = str(totals.answered), str(totals.failed)
    return totals.model, *counts, valid, money(totals.cost), f"{totals.latency:.1f}"
