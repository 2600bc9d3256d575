"""`spend` and `prices`: what was spent and saved, what the budgets leave, what a model costs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile, settings_of, write_file
from testronaut_llm.errors import ConfigError, InvalidRequestError
from testronaut_llm.support.money import exact, usd
from testronaut_llm.support.text import visible

if TYPE_CHECKING:
    from testronaut_llm.money.report import LimitState, Spend

group = typer.Typer(name="spend", invoke_without_command=True)
prices = typer.Typer(name="prices", no_args_is_help=True, help="Show prices and update the table.")

_SERIES, _MOST_DAYS, _BAR = 7, 62, 10


@group.callback()
def spend(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(help="First day to count, or an age such as 7d.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts to this file.")] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show what was spent and saved, and what the budgets leave. Money is in US dollars, days are UTC.

    Example: testronaut-llm spend --since 30d --html spend.html
    """
    if context.invoked_subcommand is not None:
        return
    if as_json and html is not None:
        raise InvalidRequestError("--json and --html were given together; expected one of them")
    with testronaut_llm.LLMManager(config) as llm:
        found = llm.spend(since)
    if as_json:
        screen.out_json(found)
    elif html is not None:
        write_file(html, page(found))
    else:
        _show(found)


@group.command()
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
        rows: list[tuple[object, ...]] = []
        for name, one in (*sums.items(), ("all", found.total)):
            cost = usd(one.cost) + (f" + {one.unpriced} of unknown price" if one.unpriced else "")
            rows.append((name, one.calls, one.hits, one.prompt_tokens, one.completion_tokens, cost, one.saved_by_cache))
        if sums:
            screen.table(f"by {title}: {found.scope}", (title, *columns), rows)
            screen.out("")
    if found.limits:
        heads = ("limit", "", "spent", "reserved", "left", "of", "renewed in")
        screen.table("budgets", heads, map(_limit, found.limits))


@exact
def _limit(state: LimitState) -> tuple[object, ...]:
    full = min(_BAR, int(_BAR * (state.spent + state.reserved) / state.limit))
    renewed = "never"
    if state.renewed_in is not None:
        days, hours = divmod(int(state.renewed_in // 3600), 24)
        renewed = f"{days} d {hours} h" if days else f"{hours} h {int(state.renewed_in // 60) % 60} min"
    bar = "#" * full + "." * (_BAR - full)
    return state.name, bar, state.spent, state.reserved, state.left, state.limit, renewed


@exact
def page(found: Spend) -> str:
    """Returns an HTML page with charts. It holds no script and fetches nothing."""
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True).from_string(
        Path(__file__).with_name("spend.html").read_text("utf-8")
    )
    models = sorted(found.by_model, key=lambda name: found.by_model[name].cost, reverse=True)
    series = models if len(models) <= _SERIES else [*models[: _SERIES - 1], ""]  # "" are all others
    first, last = min(found.by_day, default=""), max(found.by_day, default="")
    bars: dict[str, dict[str, Decimal]] = {}
    if found.total.cost:
        start, end = date.fromisoformat(first), date.fromisoformat(last)
        length = len(first if (end - start).days < _MOST_DAYS else "2026-12")  # of a day or a month
        days = (str(start + timedelta(number)) for number in range((end - start).days + 1))
        bars = {day[:length]: dict.fromkeys(series, Decimal(0)) for day in days}
        for row in found.rows:
            bars[row.day[:length]][row.model if row.model in series else ""] += row.totals.cost
    most = max((sum(costs.values()) for costs in bars.values()), default=0)
    tasks = [(name, totals.cost) for name, totals in found.by_task.items()]
    return visible(
        template.render(found=found, usd=usd, series=series, bars=bars, most=most, first=first, last=last, tasks=tasks)
    ).lstrip()


@prices.command("show")
def show_prices(
    model: Annotated[str, typer.Argument(help="An alias, or provider/model.")],
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show what a model costs, and the source of the price."""
    from testronaut_llm.money.prices import PriceTable

    settings = settings_of(config)
    found, table = settings.model(model), PriceTable.load()
    price, facts = table.price(found), table.facts(found)
    if price is None:
        fix = f"; {table.mend(found)}" if model in settings.models else ""
        raise ConfigError(f"{found.model} has no known price{fix}")
    if as_json:
        screen.out_json({"model": found.model, "price": price, "facts": facts})
        return
    rates = {
        name
        + (f" beyond {start:,} prompt tokens" if start else ""): f"${Decimal(rate).normalize():f} per million tokens"
        for start, tier in screen.plain(price.tiers)
        for name, rate in tier.items()
        if rate is not None
    }
    units = {"context_window": "tokens", "max_output": "tokens"}
    screen.facts(found.model, {"source": price.source, **rates, **asdict(facts)}, units)


@prices.command("update")
def update_table(source: Annotated[str, typer.Argument(help="A file or an https URL in LiteLLM's format.")]) -> None:
    """Install a newer price table. The previous one is kept beside it."""
    from testronaut_llm.money.price_update import update_prices

    done = update_prices(source)
    kept = f"; the previous table is kept as {done.previous}" if done.previous else ""
    screen.note(f"wrote {done.path}: {done.models:,} models, {done.priced:,} of them with a price{kept}")
