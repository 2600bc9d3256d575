"""`spend` and `prices`: what was spent and saved, what the budgets leave, what a model costs."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile, settings_of, writing
from testronaut_llm.errors import ConfigError, InvalidRequestError
from testronaut_llm.support.money import exact, usd
from testronaut_llm.support.text import visible

if TYPE_CHECKING:
    from testronaut_llm.money.report import LimitState, Spend, Totals

group = typer.Typer(name="spend", invoke_without_command=True)
prices = typer.Typer(name="prices", no_args_is_help=True, help="Show prices and update the table.")

_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")
_SERIES, _MOST_DAYS, _BAR = 7, 62, 10


@group.callback()
def spend(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(help="First day to count, or an age such as 7d.")] = None,
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
        screen.out(_csv(found), end="")
    elif html is not None:
        with writing(html):
            html.write_text(page(found), "utf-8")
    else:
        _show(found)


@group.command("prune")
def prune(
    older_than: Annotated[str, typer.Option(help="A day, or an age such as 90d.")],
    config: ConfigFile = None,
) -> None:
    """Delete the records of single old requests. The sums stay, and so does what counts against budgets."""
    with testronaut_llm.LLMManager(config) as llm:
        gone = llm.prune_history(older_than)
    screen.note(f"single requests deleted: {gone:,}; their sums stay")


def _show(found: Spend) -> None:
    if not found.rows:
        screen.note(f"nothing has been spent{f' since {found.since}' if found.since else ''} for {found.scope}")
    columns = ("calls", "hits", "tokens in", "tokens out", "cost", "saved by cache")
    for title, sums in (("day", found.by_day), ("task", found.by_task), ("model", found.by_model)):
        if sums:
            rows = [(name, *_sums(totals)) for name, totals in (*sums.items(), ("all", found.total))]
            screen.table(f"by {title}: {found.scope}", (title, *columns), rows)
            screen.out("")
    if found.limits:
        heads = ("limit", "", "spent", "reserved", "left", "of", "renewed in")
        screen.table("budgets", heads, map(_limit, found.limits))


def _sums(totals: Totals) -> tuple[object, ...]:
    cost = usd(totals.cost) + (f" + {totals.unpriced} of unknown price" if totals.unpriced else "")
    counts = totals.calls, totals.hits, totals.prompt_tokens, totals.completion_tokens
    return *counts, cost, totals.saved_by_cache


@exact
def _limit(state: LimitState) -> tuple[object, ...]:
    full = min(_BAR, int(_BAR * (state.spent + state.reserved) / state.limit))
    renewed = "never"
    if state.renewed_in is not None:
        days, hours = divmod(int(state.renewed_in // 3600), 24)
        renewed = f"{days} d {hours} h" if days else f"{hours} h {int(state.renewed_in // 60) % 60} min"
    bar = "#" * full + "." * (_BAR - full)
    return state.name, bar, state.spent, state.reserved, state.left, state.limit, renewed


def _csv(found: Spend) -> str:
    def cell(text: str) -> str:  # no spreadsheet takes it for a formula
        return visible(f"'{text}" if text.startswith(_FORMULA) else text)

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("day", "task", "model", *asdict(found.total)))
    for row in found.rows:
        numbers = (f"{value:f}" if isinstance(value, Decimal) else value for value in asdict(row.totals).values())
        writer.writerow((row.day, cell(row.task), cell(row.model), *numbers))
    return text.getvalue()


@exact
def page(found: Spend) -> str:
    """Returns an HTML page with charts. It holds no script and fetches nothing."""
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True).from_string(
        Path(__file__).with_name("spend.html").read_text("utf-8")
    )
    models = sorted(found.by_model, key=lambda name: found.by_model[name].cost, reverse=True)
    series = models if len(models) <= _SERIES else [*models[: _SERIES - 1], ""]
    days = _days(found, series)
    return visible(
        template.render(
            found=found,
            usd=usd,
            series=series,
            days=days,
            most=max((sum(cost for *_, cost in parts) for _, parts in days), default=0) or 1,
            first=min(found.by_day, default=""),
            last=max(found.by_day, default=""),
            tasks=[(name, totals.cost) for name, totals in found.by_task.items()],
        ).lstrip()
    )


def _days(found: Spend, series: list[str]) -> list[tuple[str, list[tuple[int, str, Decimal]]]]:
    """Returns the cost of each model (place in `series`, name, cost) of each day, or of spans of days if they are many.

    The models that have no place in `series` are its last entry, "".
    """
    if not found.rows:
        return []
    first, last = (date.fromisoformat(day) for day in (min(found.by_day), max(found.by_day)))
    span = (last - first).days // _MOST_DAYS + 1
    costs: list[dict[str, Decimal]] = [{} for _ in range((last - first).days // span + 1)]
    for row in found.rows:
        of_day = costs[(date.fromisoformat(row.day) - first).days // span]
        name = row.model if row.model in series else ""
        of_day[name] = of_day.get(name, Decimal(0)) + row.totals.cost
    days = []
    for number, of_day in enumerate(costs):
        start = first + timedelta(days=number * span)
        end = min(start + timedelta(days=span - 1), last)
        parts = [(place, name, of_day[name]) for place, name in enumerate(series) if of_day.get(name)]
        days.append((f"{start}" if span == 1 else f"{start} to {end}", parts))
    return days


@prices.command("show")
def show_prices(
    model: Annotated[str, typer.Argument(help="An alias, or provider/model.")],
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show what a model costs, in USD per million tokens, and the source of the price."""
    from testronaut_llm.money.prices import PriceTable

    found = settings_of(config).model(model)
    table = PriceTable.load()
    price, facts = table.price(found), table.facts(found)
    if price is None:
        raise ConfigError(f"{found.model} has no known price; add to its row in llm.yaml: {table.mend(found)}")
    rows: list[tuple[str, object]] = [("source", price.source)]
    for start, rates in screen.plain(price.tiers):
        beyond = f" beyond {start:,} prompt tokens" if start else ""
        rows += [(f"{name}{beyond}", f"${rate}") for name, rate in rates.items() if rate is not None]
    rows += [(name, value) for name, value in screen.plain(facts).items() if value is not None]
    value = {"model": found.model, "price": price, "facts": facts}
    screen.show(value, found.model, ("what", "value"), rows, as_json=as_json)


@prices.command("update")
def update_table(source: Annotated[str, typer.Argument(help="A file or an https URL in LiteLLM's format.")]) -> None:
    """Install a newer price table. The previous one is kept beside it."""
    from testronaut_llm.money.price_update import update_prices

    done = update_prices(source)
    kept = f"; the previous table is kept as {done.previous}" if done.previous else ""
    screen.note(f"wrote {done.path}: {done.models:,} models, {done.priced:,} of them with a price{kept}")
