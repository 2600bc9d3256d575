"""Writes the JSON Schema of `llm.yaml` from its pydantic classes, for completion and checks in editors.

python scripts/config_schema.py            after a change of these classes
"""

from __future__ import annotations

import ast
import inspect
import json
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig
from testronaut_llm.config.problems import keys_of
from testronaut_llm.config.sections import BudgetConfig, CacheConfig, LimitConfig, LogConfig, PriceConfig
from testronaut_llm.config.source import SCHEMA_FILE
from testronaut_llm.support.paths import write_atomically

SECTIONS = (LLMConfig, ModelConfig, TaskConfig, PriceConfig, LimitConfig, BudgetConfig, CacheConfig, LogConfig)

_VARIABLE = {"type": "string", "pattern": r"\$\{"}


def schema_text() -> str:
    """Returns the JSON Schema in its shipped form."""
    schema = LLMConfig.model_json_schema()
    parts = {LLMConfig.__name__: schema, **schema["$defs"]}
    for section in SECTIONS:
        _complete(parts[section.__name__], section)
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "llm.yaml of testronaut-llm"}
    return json.dumps({**head, **_untitled(schema)}, indent=2) + "\n"


def descriptions(section: type[BaseModel]) -> dict[str, str]:
    """Returns the sentence below each field of a section, read from the source."""
    (definition,) = ast.parse(inspect.getsource(section)).body
    found = {}
    for line, below in pairwise(definition.body if isinstance(definition, ast.ClassDef) else []):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr):
            found[line.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return found


def _complete(part: dict[str, Any], section: type[BaseModel]) -> None:
    """Adds descriptions, removes fields that are keys in the file, allows `${VAR}` for values other than texts."""
    keys, told = keys_of(section), descriptions(section)
    part["description"] = inspect.getdoc(section).partition("\n")[0]  # type: ignore[union-attr]  # each has one
    part["required"] = [key for key in part.get("required", []) if key in keys]
    part["properties"] = {
        key: {**_or_variable(value), "description": told[key]}
        for key, value in part["properties"].items()
        if key in keys
    }


def _or_variable(value: dict[str, Any]) -> dict[str, Any]:
    if value.get("type") in ("object", "array") or "$ref" in value or "const" in value:
        return value
    options = value.get("anyOf") or [{key: part for key, part in value.items() if key not in ("default", "title")}]
    if {"type": "string"} in options or any("$ref" in option for option in options):
        return value
    kept = {"default": value["default"]} if "default" in value else {}
    return {"anyOf": [*options, _VARIABLE], **kept}


def _untitled(value: Any) -> Any:
    """Removes pydantic's titles, which repeat the names of the keys."""
    if isinstance(value, dict):
        return {key: _untitled(part) for key, part in value.items() if key != "title" or not isinstance(part, str)}
    return [_untitled(part) for part in value] if isinstance(value, list) else value


if __name__ == "__main__":
    write_atomically(SCHEMA_FILE, schema_text(), mode=0o644)
