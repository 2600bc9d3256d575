"""What a model behind a wire would say: a value in the form that its wire makes of the caller's schema."""

from __future__ import annotations

import json
from functools import singledispatch
from itertools import chain, repeat
from typing import Any

from testronaut_llm.schema.nodes import Choice, Entries, Items, Link, Node, Record, Text
from testronaut_llm.schema.output_schema import OutputSchema


def said(schema: OutputSchema, value: Any, dialect: str) -> str:
    """The text by which a model behind that wire would say `value` (an instance, or plain JSON)."""
    plan, adapter = schema._plan(dialect), schema._adapter
    out = _encoded(plan.root, value if adapter is None else adapter.dump_python(value, mode="json", by_alias=True))
    return json.dumps({"result": out} if plan.wire.wrapped else out, ensure_ascii=False)


@singledispatch
def _encoded(node: Node, value: Any) -> Any:
    return value


@_encoded.register
def _(node: Text, value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False)


@_encoded.register
def _(node: Record, value: Any) -> Any:
    out = {name: _encoded(sub, value[name]) for name, sub in node.properties.items() if name in value}
    if node.all_required:
        out = {name: out.get(name) for name in node.properties}
    elif node.others is not False:
        out |= {name: sub for name, sub in value.items() if name not in out}
    return out


@_encoded.register
def _(node: Entries, value: Any) -> Any:
    return [{"key": key, "value": _encoded(node.value, sub)} for key, sub in value.items()]


@_encoded.register
def _(node: Items, value: Any) -> Any:
    places = chain(node.first, repeat(node.rest))
    return [_encoded(place, sub) if place else sub for place, sub in zip(places, value, strict=False)]


@_encoded.register
def _(node: Choice, value: Any) -> Any:
    right = [option for option, accepts in node.options if accepts(value)] or [node.options[0][0]]
    forms = ((option, _encoded(option, value)) for option in right if option.fits(value) or option.encodes())
    return next((out for option, out in forms if option.decode(out) == value), _encoded(right[0], value))


@_encoded.register
def _(node: Link, value: Any) -> Any:
    return _encoded(node.table[node.name], value)
