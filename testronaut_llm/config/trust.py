"""Which configuration files the user has looked at, and what a file may say that nobody has looked at.

An `llm.yaml` that was found by walking upwards may have come with somebody's repository. Until its path and digest are
recorded, as direnv does it, only what `ALLOWED` names has an effect; an edit ends the trust.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from testronaut_llm.config.faults import Where, few, path_of, shown
from testronaut_llm.config.secrets import public
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import data_dir, made, user_path, write_atomically
from testronaut_llm.support.text import is_loopback, read_utf8

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, ModelConfig

ALLOWED: Mapping[str, frozenset[str]] = {
    section: frozenset(fields.split())
    for section, fields in {
        "LLMConfig": "version models tasks budget cache limits",
        "ModelConfig": "model api_base quality price context_window max_output num_ctx reasoning limits",
        "TaskConfig": (
            "models strategy min_quality max_tokens temperature stop seed system timeout deadline retries fallback_on"
            " allow_truncated private cache prompt_cache budget optional"
        ),
        "PriceConfig": "input output cache_read cache_write",
        "LimitConfig": "rpm tpm concurrency",
        "BudgetConfig": "per_call per_day per_month total on_exceeded",
        "CacheConfig": "ttl",
    }.items()
}
"""What a file that is not trusted may say, by the class of the section; `api_base` on loopback only.

A field that is missing here has its default until the file is trusted, and a model's row that sets it is not ready.
"""

_OF_THIS_MACHINE = ("log", "cache")
"""Sections that a model can be asked without."""

Section = TypeVar("Section", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Untrusted:
    """What a file says as a whole and may not until it is trusted.

    Attributes:
        ignored: what has no effect, outside `models`.
        unfilled: `${NAME}` outside `models`, with its place; while there is one, no model of the file is ready.
    """

    ignored: tuple[str, ...]
    unfilled: tuple[str, ...]

    def row(self, model: ModelConfig, withheld: Iterable[str] = ()) -> ModelConfig:
        """Returns a model's row as one of this file, with what it says and may not."""
        names = (f"${{{name}}}" for name in model.unset)
        return model.model_copy(update={"trusted": False, "withheld": (*withheld, *names, *self.unfilled)})


def limited(config: LLMConfig, unfilled: Iterable[tuple[Where, str]]) -> tuple[LLMConfig, Untrusted]:
    """Returns a configuration with only what a file that is not trusted may say, and what it may not.

    `unfilled` are the variables that it refers to outside `models`, each with its place.
    """
    withheld: list[tuple[Where, str]] = []
    config = _allowed(config, (), withheld)
    of_rows: dict[str | int, list[str]] = {alias: [] for alias in config.models}
    ignored: list[str] = []
    concerns_all: list[str] = []
    for where, text in withheld:
        (of_rows[where[1]] if where[0] == "models" else ignored).append(text)
    for where, name in unfilled:
        (ignored if where[0] in _OF_THIS_MACHINE else concerns_all).append(f"${{{name}}} in {path_of(where)}")
    untrusted = Untrusted(tuple(ignored), (few(concerns_all),) if concerns_all else ())
    rows = {alias: untrusted.row(row, of_rows[alias]) for alias, row in config.models.items()}
    return config.model_copy(update={"models": rows}), untrusted


def _allowed(section: Section, where: Where, withheld: list[tuple[Where, str]]) -> Section:
    """Returns a section without what is not allowed, and notes the place and the words of what was taken out."""
    kept: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value, default = getattr(section, name), field.get_default(call_default_factory=True)
        if field.exclude or value == default:
            continue
        at = (*where, name)
        if name not in ALLOWED.get(type(section).__name__, ()) or (name == "api_base" and not is_loopback(value)):
            kept[name] = default
            withheld.append((at, _said(at, value)))
        elif isinstance(value, BaseModel):
            kept[name] = _allowed(value, at, withheld)
        elif isinstance(value, Mapping):
            kept[name] = {key: _allowed(part, (*at, key), withheld) for key, part in value.items()}
    return section.model_copy(update=kept)


def _said(where: Where, value: Any) -> str:
    """A place, for a model's row below its name, and what it says, without what may be a secret."""
    place = path_of(where[2:] if where[0] == "models" else where)
    if isinstance(value, BaseModel):
        return place
    value = public(str(where[-1]), value)
    return f"{place} ({', '.join(value) if isinstance(value, Mapping) else shown(value)})"


def is_trusted(path: Path, text: str) -> bool:
    """Returns whether exactly this text was trusted at exactly this path."""
    try:
        record = json.loads(record_of(path).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record == _record(path, text)


def trust(path: str | Path) -> Path:
    """Records the file as it is now; returns its resolved path. Raises ConfigError: it cannot be read or recorded."""
    real = user_path(path).resolve()
    record = record_of(real)
    try:
        text = read_utf8(real)
        made(record.parent)
        write_atomically(record, json.dumps(_record(real, text)), mode=0o600)
    except OSError as error:
        raise ConfigError(f"cannot trust {real}: {error}", file=str(real)) from None
    return real


def record_of(path: Path) -> Path:
    """Returns the file that holds the record for a path; one a path, so that two at once lose nothing."""
    return data_dir() / "trusted" / f"{_digest(str(path.resolve()))}.json"


def _record(path: Path, text: str) -> dict[str, str]:
    return {"path": str(path.resolve()), "sha256": _digest(text)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
