"""`spend`: what was spent and saved, and what the budgets leave; as tables, JSON, CSV or a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile, writing
from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.support.money import exact, usd
from testronaut_llm.support.text import visible

if TYPE_CHECKING:
    from testronaut_llm.money.report import LimitState, Spend, Totals
COLUMNS = ("calls", "hits", "tokens in", "tokens out", "cost", "saved by cache")
_LIMITS = ("limit", "", "spent", "set aside", "left", "of", "renewed in")
_BAR = 20

group = typer.Typer(name="spend", invoke_without_command=True)


@group.callback()
def spend(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(help="First day to count, or a time that has passed: 7d.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one line for each day, task and model.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts to this file.")] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show what was spent and saved, and what the budgets leave. Money is in US dollars, days are UTC.

    Example: testronaut-llm spend --since 30d --html spend.html
    """
    if context.invoked_subcommand is not None:
        return
    if as_json + as_csv + (html is not None) > 1:
        raise InvalidRequestError("--json, --csv and --html were given together; expected one of them")
    with testronaut_llm.LLMManager(config) as llm:
        found = llm.spend(since)
    if as_json:
        screen.out_json(found)
    elif as_csv:
        screen.out(_csv(found).rstrip("\n"))
    elif html is not None:
        from testronaut_llm.cli.spend_page import page

        with writing(html):
            html.write_text(visible(page(found)), "utf-8")
    else:
        _show(found)


@group.command("prune")
def prune(
    older_than: Annotated[str, typer.Option(help="A day, or an age such as 90d.")],
    config: ConfigFile = None,
) -> None:
    """Forget single requests of long ago; sums, and what counts against budgets, stay."""
    with testronaut_llm.LLMManager(config) as llm:
        gone = llm.prune_history(older_than)
    screen.note(f"single requests forgotten: {gone:,}; their sums stay")


def bill(llm: testronaut_llm.LLMManager) -> str:
    """What a manager's calls cost and saved: `$0.0012, saved $0.03`."""
    session = llm.session
    cost = usd(session.cost) if session.cost else "" if session.unpriced else "nothing"
    unpriced = f"{session.unpriced} of unknown price" if session.unpriced else ""
    saved = f"saved {usd(session.saved)}" if session.saved > 0 else ""
    return ", ".join(filter(None, (cost, unpriced, saved)))


@contextmanager
def billed(llm: testronaut_llm.LLMManager) -> Iterator[None]:
    """Says what was spent when calls fail or are broken off; where it is an error of ours, after its message."""
    try:
        yield
    except BaseException as error:
        if llm.session.cost or llm.session.unpriced:
            # Nobody prints the notes of ctrl-C.
            say = screen.note if isinstance(error, KeyboardInterrupt) else error.add_note
            say(f"this run cost {bill(llm)}")
        raise


def _show(found: Spend) -> None:
    if not found.rows:
        screen.note(f"nothing has been spent{f' since {found.since}' if found.since else ''} for {found.scope}")
    for title, sums in (("day", found.by_day), ("task", found.by_task), ("model", found.by_model)):
        if sums:
            rows = [(name, *_cells(totals)) for name, totals in (*sums.items(), ("all", found.total))]
            screen.table(f"by {title}: {found.scope}", (title, *COLUMNS), rows)
            screen.out("")
    if found.limits:
        screen.table("budgets", _LIMITS, map(_limit, found.limits))


def _cells(totals: Totals) -> tuple[str, ...]:
    unpriced = f" + {totals.unpriced} of unknown price" if totals.unpriced else ""
    counts = totals.calls, totals.hits, totals.prompt_tokens, totals.completion_tokens
    return *(f"{count:,}" for count in counts), usd(totals.cost) + unpriced, usd(totals.saved_by_cache)


@exact
def _limit(state: LimitState) -> tuple[str, ...]:
    full = min(_BAR, int(_BAR * (state.spent + state.reserved) / state.limit))
    bar = "#" * full + "." * (_BAR - full)
    money = (usd(state.spent), usd(state.reserved), usd(state.left), usd(state.limit))
    return state.name, bar, *money, _hours(state.renewed_in)


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    days, hours = divmod(int(seconds // 3600), 24)
    return f"{days} d {hours} h" if days else f"{hours} h {int(seconds // 60) % 60} min"


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return visible(f"'{text}" if text.startswith(tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")) else text)


def _csv(found: Spend) -> str:
    text = io.StringIO()
    rows = [{"day": r.day, "task": _cell(r.task), "model": _cell(r.model), **asdict(r.totals)} for r in found.rows]
    writer = csv.DictWriter(text, ("day", "task", "model", *asdict(found.total)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{v:f}" if hasattr(v, "scaleb") else v for name, v in row.items()} for row in rows)
    return text.getvalue()
