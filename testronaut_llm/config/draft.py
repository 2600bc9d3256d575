"""From plain data to what the shapes of `model_config` take, and the faults that they cannot find.

Names that refer to each other, keys written out, the environment: looked at before the shapes, so
that all faults come out together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from testronaut_llm.config.checks import REFERENCE
from testronaut_llm.config.faults import Fault, Source, Where, shown
from testronaut_llm.config.local_options import refused_options
from testronaut_llm.config.secrets import keys_written_out, texts
from testronaut_llm.config.variables import Filling
from testronaut_llm.support.owned_fields import refused_in_extra
from testronaut_llm.support.text import closest, did_you_mean

MODEL_VARIABLE = "TESTRONAUT_LLM_MODEL"
Unfilled = tuple[tuple[Where, str], ...]
"""Places and the names of variables."""

_KEPT_UNFILLED = ("model", "api_base", "api_version", "base_model", "api_key_file", "api_key_command", "extra")
_TEXTS_OF_TASKS = ("models", "system", "stop")
_MOST_LIMITS = 20


def examine(data: Any, source: Source) -> tuple[dict[str, Any], list[Fault], Unfilled]:
    """Returns the data as the shapes take it (references filled, names in place), and the faults they cannot find.

    And, where the file is not trusted, the variables outside `models`, none of which is filled in.
    """
    if not isinstance(data, Mapping):
        return {}, [Fault((), "expected a mapping with `models:` and `tasks:`")], ()
    filling = Filling(os.environ if source.trusted else None)
    filled = {key: value for key, value in filling.fill(dict(data)).items() if value is not None}
    inside = [one for one in filling.unset if one[0][0] == "models" and len(one[0]) > 2]
    outside = tuple(one for one in filling.unset if one[0][0] != "models" or len(one[0]) <= 2)
    if not source.trusted:
        _leave_out(filled, outside)
    models, tasks = _mapping(filled, "models"), _mapping(filled, "tasks")
    override = os.environ.get(MODEL_VARIABLE) or None
    keys = {fault.where: fault for fault in keys_written_out(data)}
    known = keys | {fault.where: fault for fault in filling.faults if fault.where not in keys}
    found = [*(_not_set(outside) if source.trusted else ()), *_misplaced(models, tasks), *_limits(filled)]
    if "models" in filled or closest("models", filled) is None:  # misspelt, it is one fault and not one a reference
        found += _references(models, tasks)
    if tasks and override:
        found += _unknown((), override, models, f"{MODEL_VARIABLE} names an ")
    faults = [*source.faults, *known.values(), *(fault for fault in found if fault.where not in known)]
    if isinstance(filled.get("models", {}), dict):
        filled["models"] = {alias: _model(alias, row, inside, source.path) for alias, row in models.items()}
    if isinstance(filled.get("log"), dict):
        filled["log"] = _beside(filled["log"], "file", source.path)
    if tasks:
        filled["tasks"] = {name: _task(name, row, override) for name, row in tasks.items()}
    return filled, faults, () if source.trusted else outside


def _not_set(unset: Unfilled) -> Iterator[Fault]:
    """Yields a fault for each place, with the first variable that it lacks."""
    for where, name in dict(reversed(unset)).items():
        yield Fault(where, f"${{{name}}} is not set: export {name}=..., or write ${{{name}:-default}}")


def _leave_out(data: dict[str, Any], unfilled: Unfilled) -> None:
    """A field outside `models` that refers to a variable keeps its text where text may stand, else its default."""
    for where, _ in unfilled:
        if where[0] not in ("models", "tasks"):
            data.pop(str(where[0]), None)
        elif len(where) > 2 and where[2] not in _TEXTS_OF_TASKS and isinstance(row := data["tasks"][where[1]], dict):
            row.pop(where[2], None)


def _mapping(data: Any, key: str) -> dict[str, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return dict(value) if isinstance(value, Mapping) else {}


def _model(alias: str, row: Any, unset: list[tuple[Where, str]], path: Path | None) -> Any:
    """A field whose variable is not set keeps its text where text may stand, and its default elsewhere."""
    if not isinstance(row, dict):
        return row.model_copy(update={"alias": alias}) if hasattr(row, "model_copy") else row
    mine = [(where[2], name) for where, name in unset if where[1] == alias]
    left_out = {key for key, _ in mine if key not in _KEPT_UNFILLED}
    kept = {key: value for key, value in row.items() if key not in left_out}
    return {
        **_beside(kept, "api_key_file", path),
        "alias": alias,
        "unset": tuple(dict.fromkeys(name for _, name in mine)),
    }


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


def _misplaced(models: dict[str, Any], tasks: dict[str, Any]) -> Iterator[Fault]:
    """Names that are none, keys that the shapes take and the file must not hold, and what is ours in `extra`."""
    for alias, row in models.items():
        if not re.fullmatch(r"[^\s/]+", str(alias)):
            yield Fault(("models", alias), f"{shown(alias)} is no name for a model: use no spaces and no slash")
        for key in ("alias", "unset", "trusted", "withheld"):
            if isinstance(row, dict) and key in row:
                yield Fault(("models", alias, key), "unknown key")
        yield from _refused(alias, _said(row, "extra"), str(_said(row, "model")).partition("/")[0])
    for name, row in tasks.items():
        if isinstance(row, dict) and "name" in row:
            yield Fault(("tasks", name, "name"), "unknown key: a task's name is the key of its section")


def _refused(alias: str, extra: Any, provider: str) -> Iterator[Fault]:
    if isinstance(extra, Mapping):
        for where, why in (*refused_in_extra(extra), *refused_options(provider, extra)):
            yield Fault(("models", alias, "extra", *where), why)


def _said(row: Any, field: str) -> Any:
    return row.get(field) if isinstance(row, dict) else getattr(row, field, None)


def _references(models: dict[str, Any], tasks: dict[str, Any]) -> Iterator[Fault]:
    for name, row in tasks.items():
        where: Where = ("tasks", name, "models")
        listed = _said(row, "models")
        if isinstance(listed, str):
            yield from _unknown(where, listed, models)
        seen: set[str] = set()
        for index, model in enumerate(listed if isinstance(listed, list | tuple) else ()):
            if not isinstance(model, str):
                continue
            if model in seen:
                yield Fault((*where, index), f"lists {shown(model)} twice")
            else:
                yield from _unknown((*where, index), model, models)
            seen.add(model)


def _unknown(where: Where, model: str, models: dict[str, Any], before: str = "") -> Iterator[Fault]:
    """A fault where there is no such model; a variable that is not filled in may be any."""
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
