"""Finds the fault in a caller's JSON Schema before any money is spent, and says where it is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.schema.document import SAME_PLACE, Path, modern, resolve, roots, subschemas, walk
from testronaut_llm.support.text import closest

if TYPE_CHECKING:
    from jsonschema.exceptions import SchemaError

TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_MAX_DEPTH = 100


def canonical(schema: dict[str, Any]) -> dict[str, Any]:
    """The caller's schema as one draft 2020-12 document. Raises InvalidRequestError with the path of a fault."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    document = with_references(schema)
    for path, part in roots(document):
        try:
            Draft202012Validator.check_schema(part)
        except SchemaError as error:
            raise fault((*path, *error.absolute_path), _in_words(error)) from None
    for path, node in walk(document):
        if node.get("enum") == []:
            raise fault((*path, "enum"), "an empty `enum` admits no answer")
    return document


def with_references(schema: dict[str, Any]) -> dict[str, Any]:
    """A plain JSON Schema in the forms of 2020-12. Raises InvalidRequestError for a reference that leads nowhere."""
    document = modern(schema)
    try:
        _check_references(document)
    except RecursionError:
        raise _too_deep() from None
    return document


def fault(path: Iterable[str | int], what: str) -> InvalidRequestError:
    """The error for a schema that cannot be used."""
    return InvalidRequestError(f"The output schema cannot be used: {what}, at `{json_path(path)}`.")


def _too_deep() -> InvalidRequestError:
    """The error for a schema that would not fit Python's stack."""
    return fault((), f"it is nested deeper than {_MAX_DEPTH} levels, or its references form too long a chain")


def json_path(path: Iterable[str | int]) -> str:
    """`$.steps[0].name` of the keys that lead there."""
    steps = (f"[{p}]" if isinstance(p, int) else f".{p}" if re.fullmatch(r"[\w$]+", p) else f"[{p!r}]" for p in path)
    return "$" + "".join(steps)


def plain(value: Any, path: Path = ()) -> Any:
    """A copy of the caller's schema, of JSON values only. Raises InvalidRequestError with the path of anything else."""
    if len(path) > _MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise fault(path, f"the key {key!r} is no string")
        return {key: plain(sub, (*path, key)) for key, sub in value.items()}
    if isinstance(value, list | tuple):
        return [plain(sub, (*path, i)) for i, sub in enumerate(value)]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise fault(path, f"{value!r} is no JSON value")


def _check_references(document: dict[str, Any]) -> None:
    places = {id(node) for _, node in walk(document)}
    for path, node in walk(document):
        for key in {"$dynamicRef", "$recursiveRef"} & node.keys():
            raise fault((*path, key), f"`{key}` is not supported, use `$ref`")
        if "$ref" in node:
            _check_reference(document, node["$ref"], (*path, "$ref"), places)
    finished: set[int] = set()
    for path, node in walk(document):
        _check_loops(document, node, path, finished, frozenset())


def _check_reference(document: dict[str, Any], reference: Any, path: Path, places: set[int]) -> None:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise fault(path, f"`$ref` {reference!r} points out of the schema, copy its target into `$defs`")
    try:
        target = resolve(document, reference)
    except LookupError:
        raise fault(path, f"`$ref` {reference!r} leads nowhere") from None
    if not isinstance(target, bool) and id(target) not in places:
        raise fault(path, f"`$ref` {reference!r} leads to no schema, put its target into `$defs`")


def _check_loops(document: dict[str, Any], node: Any, path: Path, finished: set[int], above: frozenset[int]) -> None:
    """A schema that judges a value by judging the same value again would never end."""
    if not isinstance(node, dict) or id(node) in finished:
        return
    if id(node) in above:
        raise fault(path, "it leads back to itself with nothing in between")
    if "$ref" in node:
        target = resolve(document, node["$ref"])
        _check_loops(document, target, (*path, "$ref"), finished, above | {id(node)})
    for steps, sub in subschemas(node):
        if steps[0] in SAME_PLACE:
            _check_loops(document, sub, (*path, *steps), finished, above | {id(node)})
    finished.add(id(node))


def _in_words(error: SchemaError) -> str:
    given, message = error.instance, str(error.message)
    if isinstance(given, str) and [*error.absolute_path, ""][-2:][0] == "type":
        if given == "json_schema":
            return "this is a response format, pass the schema inside it"
        close = closest(given, TYPES, cutoff=0.4)
        hint = f", did you mean {close!r}?" if close else ""
        return f"unknown type {given!r} (known: {', '.join(TYPES)}){hint}"
    if isinstance(given, str) and "regex" in message:
        return f"{given!r} is no regular expression that Python's `re` takes"
    return message if len(message) <= 200 else message[:200] + "..."
