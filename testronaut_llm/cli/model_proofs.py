"""`models verify` and `models bench`: is a local model what it should be, and how fast is it here?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile

if TYPE_CHECKING:
    from pathlib import Path

    from testronaut_llm.llm_manager import LLMManager
    from testronaut_llm.local.speeds import Speed

Local = Annotated[str, typer.Argument(help="Such as embedded/smollm2-135m, ollama/qwen3:8b, or a name of llm.yaml.")]

_SIGNS = {"pass": "pass   ", "fail": "FAIL   ", "skipped": "skipped"}
_COLUMNS = ("when", "load", "first token", "prompt", "reads", "writes", "at once", "memory", "timed by")


def register(group: typer.Typer) -> None:
    """Adds the commands to `models`."""
    group.command("verify")(verify)
    group.command("bench")(bench)


def verify(model: Local, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Check a local model: its bytes, that it loads, answers, stops, obeys a schema, reads all, repeats itself.

    Example: testronaut-llm models verify embedded/smollm2-135m
    """
    from testronaut_llm.model_verify import Finding
    from testronaut_llm.model_verify import verify as findings_of

    found: list[Finding] = []
    with _manager(model, config) as llm:
        for finding in findings_of(llm):
            found.append(finding)
            if not as_json:
                screen.out(f"{_SIGNS[finding.outcome]}  {finding.check}: {finding.why}")
    if as_json:
        screen.out_json(found)
    if any(one.outcome == "fail" for one in found):
        raise typer.Exit(screen.FAILED)


def bench(
    model: Local,
    at_once: Annotated[int, typer.Option("--at-once", "-n", min=1, max=64, help="Also so many at the same time.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Requests, of which the median counts.")] = 3,
    history: Annotated[bool, typer.Option("--history", help="Measure nothing; show what was measured before.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Measure a local model: time to load, to the first token, tokens a second, memory. `route` then shows seconds.

    Example: testronaut-llm models bench embedded/smollm2-135m --at-once 4
    """
    from testronaut_llm.local.speeds import SpeedHistory
    from testronaut_llm.model_bench import bench as measured

    kept = SpeedHistory()
    with _manager(model, config) as llm:
        row = llm.config.model("it")
        if not history:
            kept.add(row, measured(llm, rounds=rounds, at_once=at_once, told=screen.note))
        speeds = kept.of(row)
    if as_json:
        screen.out_json(speeds if history else speeds[-1])
    else:
        screen.table(row.model, _COLUMNS, map(_row, speeds))


@contextmanager
def _manager(reference: str, file: Path | None) -> Iterator[LLMManager]:
    from testronaut_llm.llm_manager import LLMManager
    from testronaut_llm.model_verify import alone

    with LLMManager(file) as whole:
        settings = alone(whole.config, reference)
    with LLMManager(config=settings) as llm:
        yield llm


def _row(speed: Speed) -> tuple[str, ...]:
    together = f"{speed.at_once}: {speed.rate_at_once:,.0f} tokens/s" if speed.rate_at_once else "-"
    return (
        f"{speed.at:.16}",
        "?" if speed.load is None else f"{speed.load:.2f} s",
        f"{speed.first:.2f} s",
        f"{speed.prompt_tokens:,} tokens",
        f"{speed.prompt_rate:,.0f} tokens/s",
        f"{speed.answer_rate:,.1f} tokens/s",
        together,
        "?" if speed.memory is None else f"{speed.memory / 2**20:,.0f} MiB",
        speed.source,
    )
