"""The form of a cassette on disk: YAML with parsed JSON bodies, so that a reviewer can read and diff it.

A body becomes `json:` if it can be written and read back unchanged, else `text:` (event streams, HTML, broken JSON),
else `base64:`.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import yaml

from testronaut_llm.errors import ConfigError
from testronaut_llm.support.text import parse_json as strict_json

VERSION = 1
_LINE_WIDTH = 120


class _Dumper(yaml.CSafeDumper):
    """Multi-line strings as blocks, vectors on as few lines as they need."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True

    def text(self, text: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    def items(self, items: list[Any]) -> yaml.Node:
        numbers = bool(items) and all(type(item) in (int, float) for item in items)
        return self.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=numbers)


_Dumper.add_representer(str, _Dumper.text)
_Dumper.add_representer(list, _Dumper.items)


def to_yaml(value: Any, *, sort_keys: bool = False) -> str:
    """Readable YAML of plain data, keys in the order they came unless they are sorted."""
    text: str = yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=sort_keys, width=_LINE_WIDTH)
    return text.removesuffix("...\n")  # libyaml's end mark, which says nothing here


def from_yaml(text: str) -> Any:
    """The plain data in `text`; Python objects are refused."""
    return yaml.load(text, Loader=yaml.CSafeLoader)


def parse_json(body: bytes | str | None) -> Any:
    """The object or list that `body` holds, or None when it is no JSON that can be written back unchanged."""
    if not body:
        return None
    try:
        value = strict_json(body)
    except ValueError:
        return None
    return value if isinstance(value, (dict, list)) else None


def body_to_field(body: bytes | str | None) -> dict[str, Any]:
    """`{}`, `{"json": ...}`, `{"text": ...}` or `{"base64": ...}`."""
    if not body:
        return {}
    raw = body.encode("utf-8", "surrogateescape") if isinstance(body, str) else body
    value = parse_json(raw)
    if value is not None:
        return {"json": value}
    try:
        return {"text": raw.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def field_to_body(part: dict[str, Any]) -> bytes:
    """The reverse of `body_to_field`."""
    if "json" in part:
        return json.dumps(part["json"], ensure_ascii=False, separators=(",", ":")).encode()
    if "base64" in part:
        return base64.b64decode(part["base64"])
    return str(part.get("text", "")).encode()


class Serializer:
    """What vcrpy calls to turn its dictionaries into the text of a cassette and back."""

    @staticmethod
    def serialize(cassette: dict[str, Any]) -> str:
        items = [(item["request"], item["response"]) for item in cassette["interactions"]]
        interactions = [
            {
                "request": {"method": asked["method"], "uri": asked["uri"], **_written(asked, asked["body"])},
                "response": {"status": said["status"]["code"], **_written(said, said["body"]["string"])},
            }
            for asked, said in items
        ]
        return to_yaml({"version": VERSION, **cassette.get("metadata", {}), "interactions": interactions})

    @staticmethod
    def deserialize(text: str) -> dict[str, Any]:
        data = from_yaml(text)
        if not isinstance(data, dict) or data.get("version") != VERSION or not data.get("recorded_from"):
            raise ConfigError(
                f"this is no cassette of ours: it must hold `version: {VERSION}` and say in `recorded_from:` "
                "which server it was recorded from; record it again with `pytest --llm-record=refresh`"
            )
        interactions = [
            {
                "request": {
                    "method": asked["method"],
                    "uri": asked["uri"],
                    "headers": _headers(asked),
                    "body": field_to_body(asked),
                },
                "response": {
                    "status": {"code": said["status"], "message": ""},
                    "headers": _headers(said),
                    "body": {"string": field_to_body(said)},
                },
            }
            for asked, said in ((item["request"], item["response"]) for item in data["interactions"])
        ]
        notes = {key: value for key, value in data.items() if key not in ("version", "interactions")}
        return {"version": VERSION, "metadata": notes, "interactions": interactions}


def _written(part: dict[str, Any], body: bytes | str | None) -> dict[str, Any]:
    headers = {name.lower(): ", ".join(values) for name, values in sorted(part["headers"].items())}
    return {"headers": headers, **body_to_field(body)}


def _headers(part: dict[str, Any]) -> dict[str, list[str]]:
    return {name: [str(value)] for name, value in (part.get("headers") or {}).items()}
