"""From plain data to what the shapes of `model_config` take, and the problems that the shapes cannot find.

Names that refer to each other, keys written out, the environment: looked at before the shapes, so
that all problems come out together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from testronaut_llm.config.faults import Fault, Source, Where, shown
from testronaut_llm.config.local_options import refused_options
from testronaut_llm.config.secrets import Filling, keys_written_out, texts
from testronaut_llm.config.values import REFERENCE
from testronaut_llm.support.owned_fields import refused_in_extra
from testronaut_llm.support.text import closest, did_you_mean

MODEL_VARIABLE = "TESTRONAUT_LLM_MODEL"
Unfilled = tuple[tuple[Where, str], ...]
"""Places and the names of variables."""
_Unset = dict[str | int, dict[str, None]]
"""The names of variables that are not set, by alias, in their order."""

_MAY_BE_UNFILLED = {
    "models": ("model", "api_base", "api_version", "base_model", "api_key_file", "api_key_command", "extra"),
    "tasks": ("models", "system", "stop"),
}
"""Fields that keep their text where a variable is not set; others have their default until it is."""
_MOST_LIMITS = 20


def examine(data: Any, source: Source) -> tuple[dict[str, Any], list[Fault], Unfilled]:
    """Returns the data as the shapes take it (references filled, names in place), and the problems they cannot find.

    And, where the file is not trusted, the variables outside `models`, none of which is filled in.
    """
    if not isinstance(data, Mapping):
        return {}, [Fault((), "expected a mapping with `models:` and `tasks:`")], ()
    filling = Filling(os.environ if source.trusted else None)
    filled, outside, unset = _filled(data, filling)
    models, tasks = _mapping(filled, "models"), _mapping(filled, "tasks")
    override = os.environ.get(MODEL_VARIABLE) or None
    known = {fault.where: fault for fault in (*filling.faults, *keys_written_out(data))}
    found = [*(_not_set(outside) if source.trusted else ()), *_reserved(filled), *_rows(models), *_limits(filled)]
    if "models" in filled or closest("models", filled) is None:  # misspelt, it is one problem and not one a reference
        found += _references(models, tasks)
    if tasks and override:
        found += _unknown((), override, models, f"{MODEL_VARIABLE} names an ")
    faults = [*source.faults, *known.values(), *(fault for fault in found if fault.where not in known)]
    if isinstance(filled.get("models", {}), dict):
        filled["models"] = {alias: _model(alias, row, unset, source.path) for alias, row in models.items()}
    if isinstance(filled.get("log"), dict):
        filled["log"] = _beside(filled["log"], "file", source.path)
    if tasks:
        filled["tasks"] = {name: _task(name, row, override) for name, row in tasks.items()}
    return filled, faults, () if source.trusted else outside


def _filled(data: Mapping[str, Any], filling: Filling) -> tuple[dict[str, Any], Unfilled, _Unset]:
    """Returns the data with `${VAR}` filled in, what is not set outside `models`, and what is not set by alias."""
    filled = {key: value for key, value in filling.fill(data).items() if value is not None}
    outside: list[tuple[Where, str]] = []
    rows: _Unset = {}
    for where, name in filling.unset:
        in_row = _in_a_row(where, "models")
        if in_row:
            rows.setdefault(where[1], {})[name] = None
        else:
            outside.append((where, name))
        if in_row or filling.environment is None:
            _leave_out(filled, where)
    return filled, tuple(outside), rows


def _in_a_row(where: Where, section: str) -> bool:
    return where[0] == section and len(where) > 2


def _leave_out(data: dict[str, Any], where: Where) -> None:
    """Takes out the field around an unfilled reference, unless its text may stand there."""
    section = str(where[0])
    if section not in _MAY_BE_UNFILLED:
        data.pop(section, None)
    elif _in_a_row(where, section) and where[2] not in _MAY_BE_UNFILLED[section]:
        row = data[section][where[1]]
        if isinstance(row, dict):
            row.pop(where[2], None)


def _mapping(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return dict(value) if isinstance(value, Mapping) else {}


def _model(alias: str, row: Any, unset: _Unset, path: Path | None) -> Any:
    if not isinstance(row, dict):
        return row.model_copy(update={"alias": alias}) if hasattr(row, "model_copy") else row
    return {**_beside(row, "api_key_file", path), "alias": alias, "unset": tuple(unset.get(alias, ()))}


def _beside(row: dict[str, Any], key: str, path: Path | None) -> dict[str, Any]:
    """A relative path means the same wherever the program runs: it starts at the folder of the file."""
    text = row.get(key)
    if not isinstance(text, str) or not path:
        return row
    return {**row, key: str(path.parent / os.path.expanduser(text))}  # noqa: PTH111 - `~nobody` stays as written


def _task(name: str, row: Any, override: str | None) -> Any:
    """One model for every task of this run is as good as asked for by name: `min_quality` does not hold."""
    forced: dict[str, Any] = {"models": (override,), "min_quality": 1} if override is not None else {}
    if isinstance(row, dict):
        return {**row, **forced, "name": name}
    return row.model_copy(update={"name": name, **forced}) if hasattr(row, "model_copy") else row


def _not_set(unset: Unfilled) -> Iterator[Fault]:
    """Yields a problem for each place, with the first variable that it lacks."""
    for where, name in dict(reversed(unset)).items():
        yield Fault(where, f"${{{name}}} is not set: export {name}=..., or write ${{{name}:-default}}")


def _reserved(data: dict[str, Any]) -> Iterator[Fault]:
    """Yields keys that the shapes take and the file must not hold."""
    for section, keys in (("models", ("alias", "unset", "trusted", "withheld")), ("tasks", ("name",))):
        for name, row in _mapping(data, section).items():
            found = (key for key in keys if isinstance(row, dict) and key in row)
            yield from (Fault((section, name, key), "unknown key") for key in found)


def _rows(models: dict[str, Any]) -> Iterator[Fault]:
    """Yields names that are none, and what `extra` must not hold."""
    for alias, row in models.items():
        if not re.fullmatch(r"[^\s/]+", str(alias)):
            yield Fault(("models", alias), f"{shown(alias)} is no name for a model: use no spaces and no slash")
        extra, provider = _field(row, "extra"), str(_field(row, "model")).partition("/")[0]
        if isinstance(extra, Mapping):
            for where, why in (*refused_in_extra(extra), *refused_options(provider, extra)):
                yield Fault(("models", alias, "extra", *where), why)


def _field(row: Any, name: str) -> Any:
    return row.get(name) if isinstance(row, dict) else getattr(row, name, None)


def _references(models: dict[str, Any], tasks: dict[str, Any]) -> Iterator[Fault]:
    for name, row in tasks.items():
        where: Where = ("tasks", name, "models")
        listed = _field(row, "models")
        if isinstance(listed, str):
            yield from _unknown(where, listed, models)
        elif isinstance(listed, list | tuple):
            seen: set[str] = set()
            for index, model in enumerate(listed):
                if isinstance(model, str) and model in seen:
                    yield Fault((*where, index), f"lists {shown(model)} twice")
                elif isinstance(model, str):
                    yield from _unknown((*where, index), model, models)
                    seen.add(model)


def _unknown(where: Where, model: str, models: dict[str, Any], before: str = "") -> Iterator[Fault]:
    """Yields a problem where there is no such model; a variable that is not filled in may be any."""
    if model not in models and not REFERENCE.fullmatch(model) and "${" not in model:
        message = f"{before}unknown model {shown(model)}"
        yield Fault(where, message, hint=lambda: f"{did_you_mean(model, models)} (or write provider/model)")


def _limits(data: dict[str, Any]) -> Iterator[Fault]:
    """A limit on a provider that nothing uses does no harm; one letter beside a used one is a typo."""
    used = {str(text).partition("/")[0] for text in texts([data.get("models"), data.get("tasks")]) if "/" in text}
    unused = (key for key in _mapping(data, "limits") if key not in used)
    for key in islice(unused, _MOST_LIMITS):
        near = closest(key, used)
        if near and abs(len(str(key)) - len(near)) <= 1:
            yield Fault(("limits", key), f"no model uses the provider {shown(key)}; did you mean `{near}`?")
