"""Answers as a model behind a wire gives them: a value in the form of the wire's schema."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator

from testronaut_llm.schema.output_schema import OutputSchema


def said(schema: OutputSchema, value: Any, dialect: str) -> str:
    """Returns the text by which a model behind that wire would say `value` (an instance, or plain JSON)."""
    wire = schema.wire(dialect)  # type: ignore[arg-type]  # a name of the table
    adapter = schema._adapter
    out = value if adapter is None else adapter.dump_python(value, mode="json", by_alias=True)
    out = {"result": out} if wire.wrapped else out
    return json.dumps(out if wire.schema is None else _encoded(wire.schema, wire.schema, out), ensure_ascii=False)


def _encoded(root: dict[str, Any], node: dict[str, Any], value: Any) -> Any:
    """Returns the value in the form of this node; unchanged if the node has no such form."""
    about = node.get("description", "")
    if "$ref" in node:
        return _encoded(root, root["$defs"][node["$ref"].rsplit("/", 1)[-1]], value)
    if "(JSON text of " in about:
        return json.dumps(value, ensure_ascii=False)
    if about.endswith("(an object, as the list of its entries)") and isinstance(value, dict):
        inner = node["items"]["properties"]["value"]
        return [{"key": key, "value": _encoded(root, inner, sub)} for key, sub in value.items()]
    if "anyOf" in node:
        options = sorted(node["anyOf"], key=lambda option: _comes_late(option, value))
        forms = ((option, _encoded(root, option, value)) for option in options)
        return next((form for option, form in forms if _obeys(root, option, form)), value)
    if node.get("type") == "object" and isinstance(value, dict):
        properties = node.get("properties", {})
        out = {name: _encoded(root, properties.get(name, {}), sub) for name, sub in value.items()}
        return {**dict.fromkeys(node.get("required", ())), **out}
    if node.get("type") == "array" and isinstance(value, list):
        return [_encoded(root, node["items"], sub) for sub in value]
    return value


def _comes_late(option: dict[str, Any], value: Any) -> bool:
    """True for JSON text that may hold less than any value; a null that may be anything is text."""
    words = json.dumps(option)
    return ("(JSON text of" in words) != (value is None and "any JSON value)" in words)


def _obeys(root: dict[str, Any], node: dict[str, Any], value: Any) -> bool:
    return bool(Draft202012Validator({**node, "$defs": root.get("$defs", {})}).is_valid(value))
