"""Records which configuration files the user trusts, and limits the settings of other files.

An `llm.yaml` that was found by walking upwards may be part of a cloned repository. Until its path and digest are
recorded (as in direnv), only settings in `ALLOWED` have an effect; an edit ends the trust.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from testronaut_llm.config.problems import Where, path_of, public, quoted
from testronaut_llm.config.sections import Section
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import data_dir, make_folder, user_path, write_atomically
from testronaut_llm.support.text import few, is_loopback, read_utf8

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, ModelConfig

ALLOWED: Mapping[str, frozenset[str]] = {
    section: frozenset(fields.split())
    for section, fields in {
        "LLMConfig": "version models tasks budget cache limits secrets",
        "ModelConfig": "model api_base quality price context_window max_output num_ctx reasoning limits",
        "TaskConfig": (
            "models strategy min_quality max_tokens temperature stop seed system timeout deadline retries fallback_on"
            " allow_truncated private cache secrets prompt_cache budget optional"
        ),
        "PriceConfig": "input output cache_read cache_write",
        "LimitConfig": "rpm tpm concurrency",
        "BudgetConfig": "per_call per_day per_month total on_exceeded",
        "CacheConfig": "ttl",
    }.items()
}
"""Settings allowed in a file that is not trusted, by the class of the section; `api_base` only on loopback."""

_NOT_FOR_MODELS = ("log", "cache")
"""Sections that models do not need."""

Shape = TypeVar("Shape", bound=Section)


def limited(config: LLMConfig, unfilled: Iterable[tuple[Where, str]]) -> tuple[LLMConfig, list[str], list[str]]:
    """Returns the configuration with allowed settings only, and the ignored settings outside `models`.

    Ignored are optional ones, then ones that every model needs. `unfilled` are the variables that the file refers to
    outside `models`, each with its place.
    """
    withheld: list[tuple[Where, str]] = []
    config = _allowed(config, (), withheld)
    of_rows: dict[str | int, list[str]] = {alias: [] for alias in config.models}
    ignored: list[str] = []
    waiting: list[str] = []
    for where, words in withheld:
        (of_rows[where[1]] if where[0] == "models" else ignored).append(words)
    for where, name in unfilled:
        (ignored if where[0] in _NOT_FOR_MODELS else waiting).append(f"${{{name}}} in {path_of(where)}")
    waiting = [few(waiting)] if waiting else []
    rows = {
        alias: untrusted(row, (*of_rows[alias], *(f"${{{name}}}" for name in row.unset), *waiting))
        for alias, row in config.models.items()
    }
    return config.model_copy(update={"models": rows}), ignored, waiting


def untrusted(row: ModelConfig, withheld: Iterable[str]) -> ModelConfig:
    """Returns a model's row with allowed settings only, and the settings without effect."""
    return row.model_copy(update={"trusted": False, "withheld": tuple(withheld)})


def _allowed(section: Shape, where: Where, withheld: list[tuple[Where, str]]) -> Shape:
    """Returns a section with allowed settings only, and notes the place and value of the others."""
    kept: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value, default = getattr(section, name), field.get_default(call_default_factory=True)
        if field.exclude or value == default:
            continue
        at = (*where, name)
        refused = (name == "api_base" and not is_loopback(value)) or (name, value) == ("secrets", "allow")
        if refused or name not in ALLOWED.get(type(section).__name__, ()):
            kept[name] = default
            words = path_of(at[2:] if at[0] == "models" else at)
            if not isinstance(value, Section):
                said = public(name, value)
                words += f" ({', '.join(said) if isinstance(said, Mapping) else quoted(said)})"
            withheld.append((at, words))
        elif isinstance(value, Section):
            kept[name] = _allowed(value, at, withheld)
        elif isinstance(value, Mapping):
            kept[name] = {key: _allowed(part, (*at, key), withheld) for key, part in value.items()}
    return section.model_copy(update=kept)


def is_trusted(path: Path, text: str) -> bool:
    """True if this exact text was trusted at this exact path."""
    try:
        return bool(json.loads(record_of(path).read_text("utf-8")) == _record(path, text))
    except (OSError, ValueError, RecursionError):
        return False


def trust(path: str | Path) -> Path:
    """Records the file as it is now; returns its resolved path. Raises ConfigError if that fails."""
    real = Path(os.path.realpath(user_path(path)))
    record = record_of(real)
    try:
        text = read_utf8(real)
        make_folder(record.parent)
        write_atomically(record, json.dumps(_record(real, text)), mode=0o600)
    except OSError as error:
        raise ConfigError(f"cannot trust {real}: {error}", file=str(real)) from None
    return real


def record_of(path: Path) -> Path:
    """Returns the file with the record of a path; one per path, so that concurrent writes lose nothing."""
    return data_dir() / "trusted" / f"{_digest(os.path.realpath(path))}.json"


def _record(path: Path, text: str) -> dict[str, str]:
    return {"path": os.path.realpath(path), "sha256": _digest(text)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
