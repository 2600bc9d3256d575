"""What the installed LiteLLM says of its providers, read from its files: importing it takes seconds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from testronaut_llm.providers import endpoint
from testronaut_llm.support.paths import data_file


class Service(NamedTuple):
    """An OpenAI-compatible service as LiteLLM describes it: its URL, the variables of its key and of another URL."""

    base: str
    key_variable: str
    base_variable: str | None


@cache
def services() -> Mapping[str, Service]:
    """Returns the OpenAI-compatible services that LiteLLM keeps as data, by name; none where it keeps no such file."""
    try:
        rows = json.loads(_text("llms/openai_like/providers.json"))
        found = {name: _service(row) for name, row in rows.items() if isinstance(row, dict)}
    except (ValueError, AttributeError):
        return {}
    return MappingProxyType({name: service for name, service in found.items() if service})


@cache
def names() -> frozenset[str]:
    """Returns all provider names of the installed LiteLLM; none where its list is missing or has another form."""
    listed = re.search(r"^class LlmProviders\(.*?(?=^\S|\Z)", _text("types/utils.py"), re.MULTILINE | re.DOTALL)
    found = {*re.findall(r"""^    \w+ = ["']([^"']+)["']""", listed[0] if listed else "", re.MULTILINE), *services()}
    return frozenset(found) if {"openai", "anthropic", "ollama"} <= found else frozenset()


def _service(row: Mapping[str, object]) -> Service | None:
    base, key, variable = (row.get(field) for field in ("base_url", "api_key_env", "api_base_env"))
    if not isinstance(base, str) or not base.startswith("https://") or endpoint.fault_of(base):
        return None
    if not isinstance(key, str) or not key.isidentifier():
        return None
    return Service(base.rstrip("/"), key, variable if isinstance(variable, str) and variable.isidentifier() else None)


def _text(path: str) -> str:
    """Returns a file of the installed LiteLLM; empty where it is not there or cannot be read."""
    try:
        file = data_file("litellm", path)
        return file.read_text("utf-8") if file else ""
    except (OSError, UnicodeDecodeError):
        return ""
