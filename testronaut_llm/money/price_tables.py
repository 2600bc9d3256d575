"""Where the price rows come from: three tables, read as data, the newest first.

Importing LiteLLM or tokencost to get at their tables costs seconds and loads SDKs, so their files
are found and read without importing them, and only when a price is first asked for.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any

from testronaut_llm.support.paths import data_dir, data_file, version
from testronaut_llm.telemetry.log import logger

Row = Mapping[str, Any]
Rows = Mapping[str, Row]

SNAPSHOT = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")

_BUNDLED = (("litellm", "model_prices_and_context_window_backup.json"), ("tokencost", "model_prices.json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table: `name` says where it comes from, `rows` maps a model's name to what is known of it."""

    name: str
    rows: Rows

    @property
    def newest(self) -> str | None:
        """Date (YYYY-MM-DD) of the newest dated model it lists, a lower bound of the table's own date."""
        return max((iso for name in self.rows if (iso := _snapshot_date(name))), default=None)


class PriceTables:
    """The user's update, LiteLLM's map, tokencost's table: the order of trust. Each is read once, when asked."""

    def __init__(self, user_file: Path | None = None) -> None:
        self._readers = [cache(partial(_read_user, user_file or user_table_path()))]
        self._readers += [cache(partial(_read_bundled, package, file)) for package, file in _BUNDLED]
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Table]:
        for reader in self._readers:
            with self._lock:
                table = reader()
            if table is not None:
                yield table


def user_table_path() -> Path:
    """The file that `prices update` writes."""
    return data_dir() / "prices.json"


def decode(text: str) -> Any:
    """JSON with every fraction as the Decimal that is written; NaN and infinities are a ValueError."""
    return json.loads(text, parse_float=Decimal, parse_constant=_refuse)


def model_rows(decoded: Mapping[str, Any]) -> dict[str, Row]:
    """The entries that describe a model; tables also hold rules and a commented sample."""
    models = {k: v for k, v in decoded.items() if isinstance(v, Mapping) and "litellm_provider" in v}
    models.pop("sample_spec", None)
    return models


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no price")


def _read_user(path: Path) -> Table | None:
    try:
        decoded = decode(path.read_text(encoding="utf-8"))
        return Table(name=f"prices update of {str(decoded['updated'])[:10]}", rows=model_rows(decoded["rows"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        mend = "run `testronaut-llm prices update` again or delete the file"
        logger().warning("price_table_unreadable", file=str(path), fault=str(error), mend=mend)
        return None


def _read_bundled(package: str, file: str) -> Table | None:
    path = data_file(package, file)
    if path is None:
        return None
    rows = model_rows(decode(path.read_text(encoding="utf-8")))
    return Table(name=f"{package} {version(package) or 'of unknown version'}", rows=rows)


def _snapshot_date(name: str) -> str | None:
    found = SNAPSHOT.search(name)
    digits = found.group(1).replace("-", "") if found else ""
    plausible = digits[:2] == "20" and "01" <= digits[4:6] <= "12" and "01" <= digits[6:] <= "31"
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}" if plausible else None
