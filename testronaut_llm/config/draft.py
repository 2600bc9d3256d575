"""Prepares the data of a file for its pydantic classes: fills `${VAR}`, and finds problems that these cannot find."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

from testronaut_llm.config.extra_fields import refused_in_extra, refused_options
from testronaut_llm.config.problems import FromEnvironment, Problem, Source, Where, quoted, replaced, texts
from testronaut_llm.config.sections import REFERENCE
from testronaut_llm.support.text import closest, did_you_mean
from testronaut_llm.telemetry.redaction import Redactor, is_secret_name, looks_like_key

MODEL_VARIABLE = "TESTRONAUT_LLM_MODEL"
Unfilled = list[tuple[Where, str]]
"""Places, with names of variables."""

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|\$\{")
_FOREIGN = re.compile(r"(?:\$\{?|os\.environ/)([A-Za-z_][A-Za-z0-9_]*)\}?")
"""A variable as a shell or LiteLLM's proxy writes it."""
_MAY_BE_UNFILLED = {
    "models": ("model", "api_base", "api_version", "base_model", "api_key_file", "api_key_command", "extra"),
    "tasks": ("models", "system", "stop"),
}
"""Fields that keep their text while a variable is not set; the others have their default until it is set."""
_OURS = {"models": ("alias", "unset", "trusted", "withheld"), "tasks": ("name",)}
"""Fields that this package sets; a file must not."""
_MALFORMED = "has a `${` that is not ${NAME} or ${NAME:-default}; write $${ for a literal one"
_MOST_LIMITS = 20


def filled(text: str, environment: Mapping[str, str] | None) -> tuple[str, tuple[str, ...], bool]:
    """Fills in `${VAR}`, `${VAR:-default}` and `$${`; an empty variable counts as not set.

    Returns the text, the variables that have no value (their references stay), and True if there is a malformed one.
    Without an `environment` nothing is filled in, defaults included.
    """
    unset: dict[str, None] = {}
    changed = malformed = False

    def value(found: re.Match[str]) -> str:
        nonlocal changed, malformed
        if not (name := found["name"]):
            malformed = malformed or found[0] == "${"
            return "${"
        known = None if environment is None else environment.get(name) or found["default"]
        if known is None:
            unset[name] = None
            return found[0]
        changed = True
        return known

    result = _VARIABLE.sub(value, text)
    return FromEnvironment(result) if changed else result, tuple(unset), malformed


def variables_in(text: str) -> tuple[str, ...]:
    """Returns the names of the variables that a text refers to, sorted; the text may be malformed."""
    return tuple(sorted({found["name"] for found in _VARIABLE.finditer(text) if found["name"]}))


def _not_to_be_written(data: Mapping[str, Any], where: Where, text: str) -> str | None:
    """Returns what to write instead of a literal key, or of a variable in another spelling."""
    row: Any = data["models"][where[1]] if len(where) == 3 and where[0] == "models" else None
    in_row = isinstance(row, Mapping)
    name = next((part for part in reversed(where) if isinstance(part, str)), "")
    is_key = looks_like_key(text) if name == "system" else Redactor().redact(text) != text
    foreign = _FOREIGN.fullmatch(text)
    if is_key or (is_secret_name(name) and (in_row or "${" not in text)):
        if not in_row:
            words = "looks like a key, and keys must not be in this file: export it and write"
            return f"{words}  ${{NAME_OF_A_VARIABLE}}"
        provider = re.sub(r"\W", "_", str(row.get("model", "my")).partition("/")[0]).upper()
        variable = foreign[1] if foreign else f"{provider}_API_KEY"
        words = f"keys must not be in this file: export the key as {variable}, and write"
        return f"{words}  api_key_env: {variable}"
    if not foreign or text.startswith("${") or (text[0] == "$" and {"system", "stop"} & {*where}):
        return None
    return f"{text} is not filled in: write  " + (foreign[1] if name == "api_key_env" else f"${{{foreign[1]}}}")


def examine(data: Any, source: Source) -> tuple[dict[str, Any], list[Problem], Unfilled]:
    """Returns the data as pydantic takes it (references filled, names in place), and the problems it cannot find.

    Also returns, for a file that is not trusted, the variables outside `models`; none of them is filled in.
    """
    if not isinstance(data, Mapping):
        return {}, [Problem((), "expected a mapping with `models:` and `tasks:`")], []
    problems: dict[Where, Problem] = {}
    unset: Unfilled = []
    draft = {key: value for key, value in _read(data, source, unset, problems).items() if value is not None}
    unset_of: defaultdict[str | int, dict[str, None]] = defaultdict(dict)
    for where, name in unset:
        if _in_row(where):
            unset_of[where[1]][name] = None
        if _in_row(where) or not source.trusted:
            _leave_out(draft, where)
    for problem in (*_of_models(draft), *_of_tasks(draft)):
        problems.setdefault(problem.where, problem)
    _put_names(draft, unset_of, source)
    outside = [] if source.trusted else [(where, name) for where, name in unset if not _in_row(where)]
    return draft, [*source.problems, *problems.values()], outside


def _in_row(where: Where) -> bool:
    return where[0] == "models" and len(where) > 2


def _read(data: Any, source: Source, unset: Unfilled, problems: dict[Where, Problem]) -> Any:
    """Returns the data with its variables filled in; adds those without a value, and the problems of its texts."""

    def visit(where: Where, text: str) -> str:
        result, names, malformed = filled(text, os.environ if source.trusted else None)
        unset.extend((where, name) for name in names)
        message = _not_to_be_written(data, where, text) or (_MALFORMED if malformed else None)
        if names and not message and source.trusted and not _in_row(where):
            message = f"${{{names[0]}}} is not set: export {names[0]}=..., or write ${{{names[0]}:-default}}"
        if message:
            problems[where] = Problem(where, message)
        return result

    return replaced(data, visit)


def _leave_out(draft: dict[str, Any], where: Where) -> None:
    """Removes the field around an unfilled reference, unless the field may keep its text."""
    section = str(where[0])
    if section not in _MAY_BE_UNFILLED:
        draft.pop(section, None)
    elif len(where) > 2 and where[2] not in _MAY_BE_UNFILLED[section]:
        row = draft[section][where[1]]
        if isinstance(row, dict):
            row.pop(where[2], None)


def _put_names(draft: dict[str, Any], unset_of: Mapping[str | int, Iterable[str]], source: Source) -> None:
    """Adds to each row the fields that are not in the file; makes paths relative to the folder of the file."""
    models, tasks = _rows(draft, "models"), _rows(draft, "tasks")
    for row, key in ((draft.get("log"), "file"), *((row, "api_key_file") for row in models.values())):
        if source.path and isinstance(row, dict) and isinstance(text := row.get(key), str):
            row[key] = str(source.path.parent / os.path.expanduser(text))  # noqa: PTH111 - `~nobody` stays as written
    # One model for all tasks of this run counts as named in the call: `min_quality` does not apply.
    override = os.environ.get(MODEL_VARIABLE)
    forced = {"models": (override,), "min_quality": 1} if override else {}
    for rows, field, more in ((models, "alias", {}), (tasks, "name", forced)):
        for name, row in rows.items():
            if isinstance(row, dict):
                row |= {**more, field: name}
                if rows is models and name in unset_of:
                    row["unset"] = tuple(unset_of[name])


def _rows(draft: dict[str, Any], section: str) -> dict[str, Any]:
    rows = draft.get(section)
    return rows if isinstance(rows, dict) else {}


def _of_models(draft: dict[str, Any]) -> Iterator[Problem]:
    """Yields problems of fields that are ours, invalid names, forbidden fields of `extra`, and typos in `limits`."""
    rows = (
        (section, *item) for section in _OURS for item in _rows(draft, section).items() if isinstance(item[1], dict)
    )
    for section, name, row in rows:
        yield from (Problem((section, name, key), "unknown key") for key in _OURS[section] if key in row)
    for alias, row in _rows(draft, "models").items():
        if not re.fullmatch(r"[^\s/]+", str(alias)):
            yield Problem(("models", alias), f"{quoted(alias)} is not a valid name: use no spaces and no slash")
        if isinstance(row, dict) and isinstance(extra := row.get("extra"), Mapping):
            provider = str(row.get("model")).partition("/")[0]
            for place, why in (*refused_in_extra(extra), *refused_options(provider, extra)):
                yield Problem(("models", alias, "extra", *place), why)
    # A limit on an unused provider is harmless, but a name one letter from a used one is a typo.
    used = {str(text).partition("/")[0] for text in texts([draft.get("models"), draft.get("tasks")]) if "/" in text}
    for key in islice((key for key in _rows(draft, "limits") if key not in used), _MOST_LIMITS):
        near = closest(key, used)
        if near and abs(len(str(key)) - len(near)) <= 1:
            yield Problem(("limits", key), f"no model uses the provider {quoted(key)}; did you mean `{near}`?")


def _of_tasks(draft: dict[str, Any]) -> Iterator[Problem]:
    """Yields problems of unknown and duplicate models; an unset variable may stand for any."""
    models, tasks = _rows(draft, "models"), _rows(draft, "tasks")
    named: list[tuple[Where, Any]] = []
    if "models" in draft or closest("models", draft) is None:  # a misspelt one is one problem, not one per reference
        for task, row in tasks.items():
            listed, place = row.get("models") if isinstance(row, dict) else None, ("tasks", task, "models")
            if isinstance(listed, list):
                named += (((*place, n), one) for n, one in enumerate(listed))
            else:
                named.append((place, listed))
    if tasks and (override := os.environ.get(MODEL_VARIABLE)):
        named.append(((), override))
    seen: set[tuple[Where, str]] = set()
    for where, name in (one for one in named if isinstance(one[1], str)):
        if (where[:2], name) in seen:
            yield Problem(where, f"lists {quoted(name)} twice")
        elif name not in models and not REFERENCE.fullmatch(name) and "${" not in name:
            message = ("" if where else f"{MODEL_VARIABLE} names an ") + f"unknown model {quoted(name)}"
            yield Problem(where, message, hint=partial(_near, name, models))
        seen.add((where[:2], name))


def _near(name: str, models: dict[str, Any]) -> str:
    return f"{did_you_mean(name, models)} (or write provider/model)"
