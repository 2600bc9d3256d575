"""`prices update`: installs a newer table from a file or URL, as a whole."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from testronaut_llm.errors import ConfigError, ConnectionFailedError
from testronaut_llm.money.price_rows import Row, read_price
from testronaut_llm.money.prices import decode, model_rows, user_table_path
from testronaut_llm.providers.network import client_settings
from testronaut_llm.support.money import is_amount
from testronaut_llm.support.paths import make_folder, user_path, write_atomically
from testronaut_llm.support.text import decoded, few, is_loopback, read_utf8
from testronaut_llm.telemetry.redaction import Redactor, said

LARGEST = 16 * 1024 * 1024
_HIGHEST = 1  # USD for one token: anything above it is a wrong unit
_FETCH_SECONDS = 30
_EXPECTED = "a JSON object of models, as LiteLLM's model_prices_and_context_window.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceUpdate:
    """The result of an update. `previous` is the file with the previous table, if there was one."""

    path: Path
    models: int
    priced: int
    previous: Path | None


def update_prices(source: str, *, path: Path | None = None) -> PriceUpdate:
    """Replaces the user's price table, and keeps the previous one as `prices.previous.json` in the same folder.

    `source` is a file or an https URL (http on loopback), in the format of LiteLLM's map. Raises ConfigError, and
    changes nothing, if it cannot be read or holds an impossible price.
    """
    text = _fetch(source) if "://" in source else read_utf8(user_path(source), most=LARGEST)
    rows = _checked(Redactor().redact(source), text)
    path = path or user_table_path()
    written = f'{{"version": 1, "updated": "{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "rows": {text}}}'
    try:
        make_folder(path.parent)
        previous = path.with_name(f"{path.stem}.previous.json") if path.exists() else None
        if previous is not None:
            shutil.copyfile(path, previous)
        write_atomically(path, written, mode=0o644)
    except OSError as error:
        raise ConfigError(f"cannot write the price table {str(path)!r}: {error}", file=str(path)) from None
    priced = sum(read_price(row) is not None for row in rows.values())
    return PriceUpdate(path=path, models=len(rows), priced=priced, previous=previous)


def _fetch(url: str) -> str:
    import httpx

    from testronaut_llm.support.http_body import bounded

    scheme, shown = url.partition("://")[0].lower(), Redactor().redact(url)
    if scheme != "https" and not (scheme == "http" and is_loopback(url)):
        raise ConfigError(f"cannot take prices from {shown!r}: expected a file or an https:// address")
    hooks: dict[str, Any] = {"response": [partial(bounded, most=LARGEST)]}
    try:
        with httpx.Client(timeout=_FETCH_SECONDS, event_hooks=hooks, **client_settings(url, redirects=True)) as client:
            return decoded(client.get(url).raise_for_status().content, shown)
    except (ConnectionFailedError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        why = Redactor().redact(said(error))
        raise ConfigError(f"cannot fetch prices from {shown!r}: {why}; expected {_EXPECTED}") from None


def _checked(source: str, text: str) -> Mapping[str, Row]:
    try:
        table = decode(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source!r} is not JSON ({error}); expected {_EXPECTED}") from None
    rows = model_rows(table) if isinstance(table, dict) else {}
    problems = {name: list(_problems(row)) for name, row in rows.items()}
    if not any(read_price(row) for name, row in rows.items() if not problems[name]):
        raise ConfigError(f"{source!r} prices no model; expected {_EXPECTED}")
    if lines := [f"{name}.{problem}" for name, found in problems.items() for problem in found]:
        raise ConfigError(f"{source!r} holds impossible prices, so nothing was changed: {few(lines, '; ')}")
    return rows


def _problems(row: Row) -> Iterator[str]:
    for key, value in row.items():
        if value is not None and ("_cost_per_token" in key or "token_cost" in key):
            if not is_amount(value):
                yield f"{key} is {value!s:.40} (expected a plain number of USD, zero or more)"
            elif value > _HIGHEST:
                yield f"{key} is {value!s:.40} (expected USD for one token, at most {_HIGHEST})"
    bands = row.get("tiered_pricing")
    for band in bands if isinstance(bands, list) else ():
        yield from _problems(band) if isinstance(band, Mapping) else ()
