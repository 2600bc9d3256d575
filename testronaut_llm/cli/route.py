"""`route`: the dry run as a table."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile, PromptFile, read_prompt
from testronaut_llm.records import Candidate, Route
from testronaut_llm.support.money import usd

COLUMNS = ("model", "is", "tokens", "answer", "cost", "at most", "kept", "why")
SECONDS = "seconds"
"""Shown where a local model was measured; see `models bench`."""


def route(
    task: Annotated[str, typer.Argument(help="A task of llm.yaml, such as cli_analysis.")],
    prompt: Annotated[str | None, typer.Argument(help="The prompt to estimate for; - reads it from stdin.")] = None,
    file: PromptFile = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="As if this model had been named.")] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show which models a task would ask, in which order, at what cost, and why. Asks nobody."""
    text = "" if prompt is None and file is None else read_prompt(prompt, file)
    with testronaut_llm.LLMManager(config) as llm:
        found = llm.route(task, text, model=model)
    if as_json:
        screen.out_json(found)
    else:
        _show(found)


def _show(found: Route) -> None:
    columns, rows = list(COLUMNS), [list(_row(one)) for one in found.candidates]
    if any(one.est_seconds is not None for one in found.candidates):
        columns.insert(-2, SECONDS)
        for row, one in zip(rows, found.candidates, strict=True):
            row.insert(-2, "?" if one.est_seconds is None else f"{one.est_seconds:.2g}")
    screen.table(f"{found.task}: {found.strategy}", columns, rows)


def _row(candidate: Candidate) -> tuple[str, ...]:
    why = candidate.reason
    if candidate.dropped_params:
        why += f"; does not take {', '.join(candidate.dropped_params)}"
    if candidate.limits:
        why += f"; under {', '.join(candidate.limits)}"
    return (
        candidate.alias,
        candidate.model,
        count(candidate.est_tokens),
        count(candidate.est_completion_tokens),
        money(candidate.est_cost),
        money(candidate.worst_cost),
        "yes" if candidate.kept else "no",
        why,
    )


def money(amount: Decimal | None) -> str:
    """`$1.25`, or `?` where nobody knows."""
    return "?" if amount is None else usd(amount)


def count(tokens: int | None) -> str:
    """`1,234`, or `?` where nobody counted."""
    return "?" if tokens is None else f"{tokens:,}"
