"""`spend`, `prices` and `cache`: show spend and savings, prices of models, and stored answers."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile, OlderThan, Yes, age, settings_of, write_file
from testronaut_llm.errors import ConfigError, InvalidRequestError
from testronaut_llm.support.text import exact, usd, visible
from testronaut_llm.telemetry.redaction import Redactor

if TYPE_CHECKING:
    from testronaut_llm.cache.files import CacheFiles
    from testronaut_llm.money.report import LimitState, Spend

group = typer.Typer(name="spend", invoke_without_command=True)
prices = typer.Typer(name="prices", no_args_is_help=True, help="Show prices and update the table.")
cache = typer.Typer(name="cache", no_args_is_help=True, help="Show, delete, export and import stored answers.")

Task = Annotated[str | None, typer.Option(help="Only the answers of this task.")]
Force = Annotated[bool, typer.Option("--force", help="Also write answers that seem to hold a secret.")]
_SERIES, _MOST_DAYS, _BAR = 7, 62, 10


@group.callback()
def spend(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(help="First day to count, or an age such as 7d.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts to this file.")] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show money spent and saved, and what is left of the budgets. Money is in US dollars, days are UTC.

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
    """Delete the records of single old requests. Daily sums and budgets do not change."""
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
    """Show the price of a model, and its source."""
    from testronaut_llm.money.prices import PriceTable

    settings = settings_of(config)
    found, table = settings.model(model), PriceTable.load()
    price, facts = table.price(found), table.facts(found)
    if price is None:
        fix = f"; {table.fix(found)}" if model in settings.models else ""
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
    sizes = {name: value for name, value in asdict(facts).items() if name != "known"}
    screen.facts(found.model, {"source": price.source, **rates, **sizes}, units)


@prices.command("update")
def update_table(source: Annotated[str, typer.Argument(help="A file or an https URL in LiteLLM's format.")]) -> None:
    """Install a newer price table. The previous one is kept."""
    from testronaut_llm.money.price_rows import update_prices

    done = update_prices(source)
    kept = f"; the previous table is kept as {done.previous}" if done.previous else ""
    screen.note(f"wrote {done.path}: {done.models:,} models, {done.priced:,} of them with a price{kept}")


@cache.command()
def stats(as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Show the number of stored answers by task, the size of the store, and the money it saved this llm.yaml."""
    files = _store(config)
    with testronaut_llm.LLMManager(config) as llm:
        total = llm.spend().total
    stored = [(one.task, one.stored) for one in files.kept()]
    found = {
        "folder": str(files.folder),
        "answers": len(stored),
        "bytes": files.bytes,
        "oldest": _time(stored[0][1]) if stored else "none",
        "newest": _time(stored[-1][1]) if stored else "none",
        "hits": total.hits,
        "saved": usd(total.saved_by_cache),
        "tasks": dict(Counter(task for task, _ in stored).most_common()),
    }
    screen.out_json(found) if as_json else screen.facts("cache", found)


@cache.command()
def clear(task: Task = None, older_than: OlderThan = None, yes: Yes = False, config: ConfigFile = None) -> None:
    """Delete stored answers: all, those of a task, or old ones."""
    before = None if older_than is None else time.time() - age(older_than)
    files = _store(config)
    if not yes:
        typer.confirm(f"Delete answers in {files.folder}?", abort=True, err=True)
    screen.note(f"answers deleted: {files.clear(task=task, before=before):,}")


@cache.command()
def export(
    file: Annotated[Path, typer.Argument(help="The file to write, JSON lines.")],
    task: Task = None,
    force: Force = False,
    config: ConfigFile = None,
) -> None:
    """Write stored answers to a file that can be committed, so that a run in CI costs nothing."""
    written, left_out = _store(config).export(file, task=task, force=force)
    screen.note(f"answers written to {file}: {written:,}")
    if left_out:
        screen.note(f"left out, since they seem to hold a secret: {len(left_out):,} (--force writes them)")
    for one in left_out:
        begins = Redactor().redact(" ".join(str(one.value.get("text", "")).split()))[:60]
        screen.note(f"  {one.key[:12]}, task {one.task}, {_time(one.stored)}: {begins}")


@cache.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file written by `cache export`.")], config: ConfigFile = None
) -> None:
    """Add the answers of an exported file to the store, all or none."""
    screen.note(f"answers imported from {file}: {_store(config).load(file):,}")


def _store(config: Path | None) -> CacheFiles:
    from testronaut_llm.cache.files import CacheFiles

    return CacheFiles(settings_of(config).cache)


def _time(stored: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(stored))
