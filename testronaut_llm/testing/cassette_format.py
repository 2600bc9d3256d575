"""The file format of cassettes: YAML with parsed JSON bodies, so that a reviewer can read and diff it."""

import base64
import json
from typing import Any

import yaml

from testronaut_llm.errors import ConfigError
from testronaut_llm.support.text import parse_json

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


def to_yaml(value: Any) -> str:
    """Returns readable YAML of plain data, with keys in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=_LINE_WIDTH)
    return text.removesuffix("...\n")  # libyaml's end mark


def from_yaml(text: str) -> Any:
    """Returns the plain data of a YAML text; Python objects are refused."""
    return yaml.load(text, Loader=yaml.CSafeLoader)


def body_to_field(body: bytes | str | None) -> dict[str, Any]:
    """Returns `{}`, `{"json": ...}`, `{"text": ...}` or `{"base64": ...}`."""
    if not body:
        return {}
    raw = body.encode("utf-8", "surrogateescape") if isinstance(body, str) else body
    try:
        if isinstance(value := parse_json(raw), dict | list):
            return {"json": value}
    except ValueError:  # it is not JSON, or would change when written
        pass
    try:
        return {"text": raw.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def field_to_body(part: dict[str, Any]) -> bytes:
    """Returns the body of such a field."""
    if "json" in part:
        return json.dumps(part["json"], ensure_ascii=False, separators=(",", ":")).encode()
    if "base64" in part:
        return base64.b64decode(part["base64"])
    return str(part.get("text", "")).encode()


class Serializer:
    """Converts vcrpy's dictionaries to the text of a cassette and back."""

    @staticmethod
    def serialize(cassette: dict[str, Any]) -> str:
        def written(part: dict[str, Any], body: bytes | str | None) -> dict[str, Any]:
            headers = {name.lower(): ", ".join(values) for name, values in sorted(part["headers"].items())}
            return {"headers": headers, **body_to_field(body)}

        interactions = []
        for one in cassette["interactions"]:
            asked, said = one["request"], one["response"]
            request = {"method": asked["method"], "uri": asked["uri"], **written(asked, asked["body"])}
            response = {"status": said["status"]["code"], **written(said, said["body"]["string"])}
            interactions.append({"request": request, "response": response})
        return to_yaml({"version": VERSION, **cassette.get("metadata", {}), "interactions": interactions})

    @staticmethod
    def deserialize(text: str) -> dict[str, Any]:
        data = from_yaml(text)
        if not isinstance(data, dict) or data.get("version") != VERSION or not data.get("recorded_from"):
            wanted = f"it must hold `version: {VERSION}` and name its server in `recorded_from:`"
            raise ConfigError(f"not a cassette of testronaut-llm: {wanted}; run: pytest --llm-record=refresh")

        def headers(part: dict[str, Any]) -> dict[str, list[str]]:
            return {name: [str(value)] for name, value in (part.get("headers") or {}).items()}

        interactions = []
        for one in data.pop("interactions"):
            asked, said = one["request"], one["response"]
            request = {"method": asked["method"], "uri": asked["uri"], "headers": headers(asked)}
            response = {"status": {"code": said["status"], "message": ""}, "headers": headers(said)}
            request["body"], response["body"] = field_to_body(asked), {"string": field_to_body(said)}
            interactions.append({"request": request, "response": response})
        return {"version": data.pop("version"), "metadata": data, "interactions": interactions}
