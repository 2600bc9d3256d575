"""`classify`: prints the label that fits a prompt, and its confidence."""

from __future__ import annotations

from typing import Annotated

import typer

from testronaut_llm.cli import options, screen
from testronaut_llm.cli.ask import TaskName
from testronaut_llm.errors import InvalidRequestError

DIFFERS = 1
"""Exit code of a verdict that differs from --expect."""


def classify(
    task: TaskName,
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads it from stdin.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", help="A label, or LABEL=DESCRIPTION.")] = None,
    expect: Annotated[str | None, typer.Option(help="Exit with 1 if the verdict is another label.")] = None,
    votes: Annotated[int, typer.Option(help="Most answers of a model without log-probabilities.")] = 3,
    min_confidence: Annotated[float, typer.Option(help="Ask the next better model if less sure, 0 to 1.")] = 0.0,
    file: options.PromptFile = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Ask this model instead of the task's.")] = None,
    max_cost: Annotated[str | None, typer.Option(help="Most that the verdict may cost, in USD.")] = None,
    cache: options.CacheOption = None,
    summary: options.Summary = None,
    as_json: options.AsJson = False,
    config: options.ConfigFile = None,
) -> None:
    """Print the label that fits a prompt.

    Example: testronaut-llm classify result_verification - --label passed --label failed --expect passed < report.txt
    """
    described = dict(one.partition("=")[::2] for one in label or ())
    if len(described) < len(label or ()):
        raise InvalidRequestError("--label names one label twice; expected labels that differ")
    if expect is not None and expect not in described:
        raise InvalidRequestError(f"--expect is {expect!r}; expected one of {', '.join(described) or 'the labels'}")
    text = options.read_prompt(prompt, file)
    with options.asking(config, summary, f"classify {task}") as llm:
        found = llm.classify(
            task,
            text,
            described,
            votes=votes,
            min_confidence=min_confidence,
            model=model,
            max_cost=max_cost,
            cache=cache,  # type: ignore[arg-type]  # checked by the manager
        )
        if as_json:
            screen.out_json(found)
        else:
            screen.out(found.label)
        shares = ", ".join(f"{one} {share:.0%}" for one, share in found.probabilities.items())
        asked = " -> ".join(one.model for one in found.verdicts)
        screen.note(f"{asked}: {shares} (by {found.method}, {len(found.answers)} answers), {options.bill(llm)}")
    if expect is not None and found.label != expect:
        raise typer.Exit(DIFFERS)
