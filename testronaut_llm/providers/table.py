"""The table of providers: registered rows, the lines of `providers.json`, plugins, and LiteLLM's own data.

It is the one piece of state that the process shares. LiteLLM's files are read: importing it takes seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from testronaut_llm.errors import ConfigError
from testronaut_llm.providers import endpoint
from testronaut_llm.providers.row import Provider
from testronaut_llm.support.paths import data_file
from testronaut_llm.support.text import closest

ENTRY_POINTS = "testronaut_llm.providers"

ALIASES = {"ollama_chat": "ollama", "custom_openai": "openai", "cohere_chat": "cohere"}

_PROBES = {
    "openai": endpoint.ollama_behind_openai,
    "ollama": endpoint.ollama_probe,
    "embedded": endpoint.embedded_probe,
    **dict.fromkeys(("vertex_ai", "vertex_ai_beta"), endpoint.google_cloud),
}

_table: dict[str, Provider] = {}


def register_provider(provider: Provider) -> None:
    """Adds a row for the whole process.

    Raises:
        ConfigError: a different row of that name is there.
    """
    there = default_row(provider.name) if provider.name in listed() else _table.get(provider.name)
    if there is not None and there != provider:
        raise ConfigError(
            f"a provider named {provider.name!r} is registered already, and differs: "
            f"give the new one another name, such as {'my_' + provider.name!r}"
        )
    if "/" in provider.name or not provider.name:
        raise ConfigError(f"a provider's name stands before the slash in llm.yaml; got {provider.name!r}")
    _table[provider.name] = provider


def find_provider(name: str) -> Provider:
    """Returns the row of a name as `llm.yaml` spells it: built in, registered, of a plugin, or by default rules.

    Where LiteLLM's list of names cannot be read, every name is accepted; it is reached at the `api_base:` of its model.

    Raises:
        ConfigError: neither this package, a plugin nor the installed LiteLLM knows the name.
    """
    name = ALIASES.get(name, name)
    if name in _table:
        return _table[name]
    if name in listed():
        return default_row(name)
    if point := _plugins().get(name):
        register_provider(_loaded(point))
        return _table[name]
    known = litellm_names()
    if name in known or not known:
        return default_row(name)
    raise ConfigError(_unknown(name))


@lru_cache(maxsize=512)
def default_row(name: str) -> Provider:
    """Returns the row of a name that nobody registered: by LiteLLM's data, by `providers.json`, else the OpenAI form.

    Where nothing is known but the name, no endpoint is: the file must give it, and LiteLLM's own way is not taken,
    since it might open a connection that is not ours.
    """
    variable = name.upper().replace("-", "_")
    usual = Provider(
        name=name,
        litellm_prefix=name,
        schema_dialect="none",
        embedding_client="handler",
        key_variables=(f"{variable}_API_KEY",),
        base_variables=(f"{variable}_API_BASE",),
        probe=_PROBES.get(name),
    )
    line = listed().get(name, {})
    row, service = replace(usual, **line), litellm_services().get(name)
    if service and "litellm_prefix" not in line:
        return replace(row, client="openai", wire="openai", **service)
    return row if name in listed() else replace(usual, litellm_prefix="openai", required=("api_base",), rented=True)


@cache
def listed() -> Mapping[str, Mapping[str, Any]]:
    """Returns what `providers.json` says of providers, as fields of their rows, by name.

    Where it names no prefix, LiteLLM knows the provider by its code, and the client that it takes must be told the
    endpoint. Where the prefix is `openai`, LiteLLM knows none, takes a client of its own, or breaks on the answers.
    `ollama/` as LiteLLM means it is /api/generate with a prompt made by hand, so its prefix is `ollama_chat`.
    """
    lines = json.loads(Path(__file__).with_name("providers.json").read_text("utf-8"))
    return {name: {field: _fixed(field, value) for field, value in line.items()} for name, line in lines.items()}


def _fixed(field: str, value: Any) -> Any:
    if isinstance(value, list):
        return frozenset(value) if field.endswith("extra") else tuple(value)
    return value


@cache
def litellm_services() -> Mapping[str, Mapping[str, Any]]:
    """Returns the OpenAI-compatible services that LiteLLM keeps as data, as fields of their rows, by name."""
    try:
        rows = json.loads(_text("llms/openai_like/providers.json"))
        found = {name: _service(name, row) for name, row in rows.items() if isinstance(row, dict)}
    except (ValueError, AttributeError):
        return {}
    return {name: service for name, service in found.items() if service}


def _service(name: str, row: Mapping[str, object]) -> dict[str, Any] | None:
    base, key, variable = (row.get(field) for field in ("base_url", "api_key_env", "api_base_env"))
    if not isinstance(base, str) or not base.startswith("https://") or endpoint.fault_of(base):
        return None
    if not isinstance(key, str) or not key.isidentifier():
        return None
    own = (variable,) if isinstance(variable, str) and variable.isidentifier() else ()
    bases = dict.fromkeys((*own, f"{name.upper().replace('-', '_')}_API_BASE"))
    return {"default_base": base.rstrip("/"), "key_variables": (key,), "base_variables": tuple(bases)}


@cache
def litellm_names() -> frozenset[str]:
    """Returns all provider names of the installed LiteLLM; none where its list is missing or has another form."""
    listing = re.search(r"^class LlmProviders\(.*?(?=^\S|\Z)", _text("types/utils.py"), re.MULTILINE | re.DOTALL)
    quoted = re.findall(r"""^    \w+ = ["']([^"']+)["']""", listing[0] if listing else "", re.MULTILINE)
    found = frozenset((*quoted, *litellm_services()))
    return found if {"openai", "anthropic", "ollama"} <= found else frozenset()


def _text(path: str) -> str:
    """Returns a file of the installed LiteLLM; empty where it is not there or cannot be read."""
    try:
        file = data_file("litellm", path)
        return file.read_text("utf-8") if file else ""
    except (OSError, UnicodeDecodeError):
        return ""


@cache
def _plugins() -> dict[str, metadata.EntryPoint]:
    """Returns the installed plugins by name; looking for them means reading the metadata of all packages."""
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}


def _loaded(point: metadata.EntryPoint) -> Provider:
    try:
        found = point.load()
        provider = found() if callable(found) else found
    except Exception as error:  # noqa: BLE001 - a plugin of others may raise anything
        raise ConfigError(
            f"provider {point.name!r}: its plugin {point.value!r} failed to load ({type(error).__name__}: {error}); "
            f"fix or uninstall the package that brings it"
        ) from None
    if not isinstance(provider, Provider) or provider.name != point.name:
        raise ConfigError(
            f"provider {point.name!r}: its plugin {point.value!r} must be a Provider named {point.name!r}, "
            f"or a function that returns one; got {type(provider).__name__}"
        )
    return provider


def _unknown(name: str) -> str:
    usable = {*_table, *ALIASES, *listed(), *_plugins(), *litellm_names()}
    close = closest(name, sorted(usable), cutoff=0.5)
    hint = f"did you mean {close + '/...'!r}? " if close else ""
    return (
        f"unknown provider {name!r}: {hint}An OpenAI-compatible server is `model: openai/<name>` "
        f"with its `api_base:`; `register_provider()` adds any other"
    )
