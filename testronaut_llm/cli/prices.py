"""`prices`: what a model costs and who says so; a newer table when asked."""

from __future__ import annotations

from typing import Annotated

import typer

from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile
from testronaut_llm.errors import ConfigError

group = typer.Typer(name="prices", no_args_is_help=True, help="Show prices and refresh the table.")


@group.command("show")
def show(
    model: Annotated[str, typer.Argument(help="An alias, or provider/model.")],
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show what a model costs, in USD per million tokens, and where that is from."""
    from testronaut_llm.config.source import ConfigSource
    from testronaut_llm.money.prices import PriceTable

    found = ConfigSource.find(config).current().model(model)
    table = PriceTable.load()
    price, facts = table.price(found), table.facts(found)
    if price is None:
        raise ConfigError(f"{found.model} has no known price; add to its row in llm.yaml: {table.mend(found)}")
    if as_json:
        screen.out_json({"model": found.model, "price": price, "facts": facts})
        return
    rows = [("source", price.source)]
    for start, rates in screen.plain(price.tiers):
        beyond = f" beyond {start:,} prompt tokens" if start else ""
        rows += [(f"{name}{beyond}", f"${rate}") for name, rate in rates.items() if rate is not None]
    rows += [(name, str(value)) for name, value in screen.plain(facts).items() if value is not None]
    screen.table(found.model, ("what", "value"), rows)


@group.command("update")
def update(source: Annotated[str, typer.Argument(help="A file or an https URL in LiteLLM's format.")]) -> None:
    """Take a newer price table; the one before is kept beside it."""
    from testronaut_llm.money.price_update import update_prices

    done = update_prices(source)
    kept = f"; the table before it is kept as {done.previous}" if done.previous else ""
    screen.note(f"wrote {done.path}: {done.models:,} models, {done.priced:,} of them with a price{kept}")
