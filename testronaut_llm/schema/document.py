"""Reads a caller's JSON Schema: rewrites older forms to draft 2020-12, and finds errors before a request is sent.

Draft 7 and OpenAPI forms (tuples in `items`, `dependencies`, `nullable`, ...) are rewritten, so that other modules
handle one form. `$id` is removed: every `$ref` points into the document itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.support.text import did_you_mean

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

Path = tuple[str | int, ...]
Json = dict[str, Any]

TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
COMBINATORS = frozenset({"$ref", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
"""Keywords whose schemas check the same value as the schema that holds them."""
_ONE = frozenset({
    "items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames", "contentSchema",
    "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
_MANY = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_NOTES = frozenset({"title", "description", "examples", "default", "$defs", "definitions", "components"})
_OBJECT = frozenset({"properties", "required", "additionalProperties", "patternProperties"})
_STRUCTURE = _OBJECT | {"type", "enum", "const", "items", "prefixItems"}
BOUNDS = frozenset({
    "minLength", "maxLength", "pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains",
    "unevaluatedItems", "minProperties", "maxProperties", "propertyNames", "patternProperties", "dependentRequired",
    "unevaluatedProperties",
})  # fmt: skip
KEYWORDS = _STRUCTURE | BOUNDS | COMBINATORS
"""Keywords that constrain a value."""
_MAX_DEPTH = 100


def canonical(schema: Json) -> Json:
    """Returns a schema as one draft 2020-12 document. Raises InvalidRequestError, with the path of what is wrong."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    document = with_references(schema)
    for path, part in _roots(document):
        try:
            Draft202012Validator.check_schema(part)
        except SchemaError as error:
            raise _unusable((*path, *error.absolute_path), _explained(error)) from None
    for path, node in walk(document):
        if node.get("enum") == []:
            raise _unusable((*path, "enum"), "an empty `enum` admits no answer")
    return document


def with_references(schema: Json) -> Json:
    """Returns a JSON Schema in the forms of 2020-12. Raises InvalidRequestError for a broken reference."""
    declared = schema.get("$schema")
    # Up to draft 7, keywords next to a `$ref` do not count.
    lonely_refs = isinstance(declared, str) and re.search(r"draft-0[3-7]", declared) is not None
    named = {path[-1]: _rewritten(sub, lonely_refs) for path, sub in _roots(schema)[1:]}
    document: Json = {**_rewritten(schema, lonely_refs), **({"components": {"schemas": named}} if named else {})}
    try:
        _check_references(document)
    except RecursionError:
        raise _too_deep() from None
    return document


def plain(value: Any, path: Path = ()) -> Any:
    """Returns a copy of the caller's schema. Raises InvalidRequestError with the path of a value that is not JSON."""
    if len(path) > _MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise _unusable(path, f"the key {key!r} is not a string")
        return {key: plain(sub, (*path, key)) for key, sub in value.items()}
    if isinstance(value, list | tuple):
        return [plain(sub, (*path, i)) for i, sub in enumerate(value)]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise _unusable(path, f"{value!r} is not a JSON value")


def json_path(path: Iterable[str | int]) -> str:
    """Returns keys as a path: `$.steps[0].name`."""
    steps = (f"[{p}]" if isinstance(p, int) else f".{p}" if re.fullmatch(r"[\w$]+", p) else f"[{p!r}]" for p in path)
    return "$" + "".join(steps)


def subschemas(node: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Yields each schema directly below `node`, with the keys that lead to it."""
    for key, value in node.items():
        if key in _ONE:
            yield (key,), value
        elif key in _MANY and isinstance(value, list):
            yield from (((key, i), sub) for i, sub in enumerate(value))
        elif key in _NAMED and isinstance(value, dict):
            yield from (((key, name), sub) for name, sub in value.items())


def map_subschemas(node: Mapping[str, Any], change: Callable[[Any], Any]) -> Json:
    """Returns `node` with each schema directly below it changed."""
    out: dict[Any, Any] = {key: copy(value) for key, value in node.items()}
    for steps, sub in subschemas(node):
        holder = out if len(steps) == 1 else out[steps[0]]
        holder[steps[-1]] = change(sub)
    return out


def walk(document: Mapping[str, Any]) -> Iterator[tuple[Path, Json]]:
    """Yields each schema object of the document with its path."""
    stack = _roots(document)
    while stack:
        path, node = stack.pop()
        if isinstance(node, dict):
            yield path, node
            stack += [((*path, *steps), sub) for steps, sub in subschemas(node)]


def resolve(document: Mapping[str, Any], reference: str) -> Any:
    """Returns the target of a `$ref` into the document. Raises LookupError, TypeError or ValueError: none."""
    fragment = unquote(reference[1:])
    if fragment and not fragment.startswith("/"):
        return {str(node.get("$anchor")): node for _, node in walk(document)}[fragment]
    here: Any = document
    for step in fragment.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        here = here[int(key) if isinstance(here, list) else key]
    return here


def validator_of(document: Json) -> Draft202012Validator:
    """Returns a validator to which 0.07 is a multiple of 0.01, and which skips what a constant rules out in `anyOf`."""
    from jsonschema import Draft202012Validator, ValidationError, validators

    def multiple_of(validator: Any, step: Any, value: Any, _: Any) -> Iterator[Any]:
        if not validator.is_type(value, "number"):
            return
        number, divisor = [Fraction(repr(one) if isinstance(one, float) else one) for one in (value, step)]
        if number % divisor:
            yield ValidationError(f"{value!r} is not a multiple of {step}")

    def any_of(validator: Any, schemas: list[Any], value: Any, _: Any) -> Iterator[Any]:
        found: list[Any] = []
        for place, schema in enumerate(schemas):
            if may_be(document, schema, value):
                found += (wrong := list(validator.descend(value, schema, schema_path=place)))
                if not wrong:
                    return
        yield ValidationError(f"{value!r} is not valid under any of the given schemas", context=found)

    return validators.extend(Draft202012Validator, {"multipleOf": multiple_of, "anyOf": any_of})(document)  # type: ignore[no-any-return,no-untyped-call]


def may_be(document: Any, schema: Any, value: Any) -> bool:
    """False if a property with another constant shows at once that a schema of the document forbids a value."""
    while isinstance(schema, dict) and "$ref" in schema:
        schema = resolve(document, schema["$ref"])
    known = schema.get("properties", {}) if isinstance(schema, dict) and isinstance(value, dict) else {}
    fixed = [name for name, sub in known.items() if isinstance(sub, dict) and sub.keys() & {"const", "enum"}]
    allowed = {name: known[name].get("enum", [known[name].get("const")]) for name in fixed}
    return all(name not in value or value[name] in allowed[name] for name in fixed)


def core_of(node: Any) -> tuple[Json, Json]:
    """Returns the parts of a node that a wire can express, and its description and examples.

    The first is a lone `$ref`, a lone `anyOf`, plain keywords with `type` as a list, or nothing if combinators are
    combined with other keywords.
    """
    if not isinstance(node, dict):
        return {}, {}
    notes = {key: node[key] for key in ("description", "examples") if key in node}
    core = {key: value for key, value in node.items() if key in KEYWORDS}
    if COMBINATORS & core.keys():
        (key, value), *others = core.items()
        if others or key not in ("$ref", "allOf", "anyOf", "oneOf") or (key == "allOf" and len(value) > 1):
            return {}, notes
        if key == "$ref" or len(value) > 1:
            return {"$ref" if key == "$ref" else "anyOf": value}, notes
        core, inner = core_of(value[0])
        return core, {**inner, **notes}
    if not _STRUCTURE & core.keys():
        return {}, notes
    if "const" in core:
        core["enum"] = [core.pop("const")]
    types = core.get("type", "object" if _OBJECT & core.keys() else "array")
    return {**core, "type": types if isinstance(types, list) else [types]}, notes


def _roots(document: Mapping[str, Any]) -> list[tuple[Path, Any]]:
    """Returns the document and OpenAPI's named schemas, which are below no other schema."""
    components = document.get("components")
    named = components.get("schemas") if isinstance(components, dict) else None
    listed = named.items() if isinstance(named, dict) else ()
    return [((), document), *((("components", "schemas", name), sub) for name, sub in listed)]


def _rewritten(node: Any, lonely_refs: bool) -> Any:
    """Returns a schema and all below it in the forms of 2020-12."""
    if not isinstance(node, dict):
        return node
    keeps = {*_NOTES, "$ref", "nullable"} if lonely_refs and "$ref" in node else node.keys()
    node = {key: value for key, value in node.items() if key in keeps and key != "$schema"}
    identity = node.pop("$id", None)
    if isinstance(identity, str) and re.fullmatch(r"#[A-Za-z_][\w.-]*", identity):
        node["$anchor"] = identity[1:]
    rest = node.pop("additionalItems", None)
    if isinstance(node.get("items"), list):
        node |= {"prefixItems": node.pop("items"), **({} if rest is None else {"items": rest})}
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(node.get(exclusive), bool) and node.pop(exclusive) and bound in node:
            node[exclusive] = node.pop(bound)
    dependencies = node.pop("dependencies", None)
    for name, needs in dependencies.items() if isinstance(dependencies, dict) else ():
        kind = "dependentRequired" if isinstance(needs, list) else "dependentSchemas"
        node[kind] = {**(node[kind] if isinstance(node.get(kind), dict) else {}), name: needs}
    return _without_nullable(map_subschemas(node, lambda sub: _rewritten(sub, lonely_refs)))


def _without_nullable(node: Json) -> Json:
    if node.pop("nullable", None) is not True:
        return node
    notes = {key: node.pop(key) for key in sorted(_NOTES & node.keys())}
    if not node:
        return notes
    if "type" not in node or COMBINATORS & node.keys():
        return {"anyOf": [node, {"type": "null"}], **notes}
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    node["type"] = [*types, *(["null"] if "null" not in types else [])]
    values = [node.pop("const")] if "const" in node else node.get("enum")
    if isinstance(values, list):
        node["enum"] = [*values, *([None] if None not in values else [])]
    return {**node, **notes}


def _check_references(document: Json) -> None:
    """Raises InvalidRequestError for a reference to nothing, out of the document, or back to itself."""
    nodes = list(walk(document))
    places = {id(node) for _, node in nodes}
    for path, node in nodes:
        for key in {"$dynamicRef", "$recursiveRef"} & node.keys():
            raise _unusable((*path, key), f"`{key}` is not supported, use `$ref`")
        reference, place = node.get("$ref", "#"), (*path, "$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise _unusable(place, f"`$ref` {reference!r} points out of the schema, copy its target into `$defs`")
        try:
            target = resolve(document, reference)
        except (LookupError, TypeError, ValueError):
            raise _unusable(place, f"`$ref` {reference!r} leads nowhere") from None
        if not isinstance(target, bool) and id(target) not in places:
            raise _unusable(place, f"`$ref` {reference!r} does not lead to a schema, put its target into `$defs`")
    finished: set[int] = set()
    for path, node in nodes:
        _check_loops(document, node, path, finished, frozenset())


def _check_loops(document: Json, node: Any, path: Path, finished: set[int], above: frozenset[int]) -> None:
    """Raises for a schema that refers to itself for the same value, so that checks would never end."""
    if not isinstance(node, dict) or id(node) in finished:
        return
    if id(node) in above:
        raise _unusable(path, "it leads back to itself with nothing in between")
    below = [((*path, *steps), sub) for steps, sub in subschemas(node) if steps[0] in COMBINATORS]
    if "$ref" in node:
        below.append(((*path, "$ref"), resolve(document, node["$ref"])))
    for place, sub in below:
        _check_loops(document, sub, place, finished, above | {id(node)})
    finished.add(id(node))


def _explained(error: SchemaError) -> str:
    if isinstance(error.instance, str) and [*error.absolute_path, ""][-2:][0] == "type":
        return f"unknown type {error.instance!r}{did_you_mean(error.instance, TYPES)}"
    return f"{error.message:.200}"


def _too_deep() -> InvalidRequestError:
    return _unusable((), f"it is nested deeper than {_MAX_DEPTH} levels, or its references form too long a chain")


def _unusable(path: Iterable[str | int], what: str) -> InvalidRequestError:
    return InvalidRequestError(f"The output schema cannot be used: {what}, at `{json_path(path)}`.")
