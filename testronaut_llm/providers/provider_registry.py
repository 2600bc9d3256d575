"""The table of providers, without loading LiteLLM.

A row comes from `register_provider`, `providers.json`, an installed plugin, or LiteLLM's own data, which is read as
files, since importing LiteLLM takes seconds.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import ConfigError
from testronaut_llm.providers.provider import Provider as Provider  # noqa: PLC0414 - exported from here
from testronaut_llm.providers.provider import endpoint_of, leaves_by_name, url_problem
from testronaut_llm.support.paths import data_file
from testronaut_llm.support.text import closest, is_loopback

ENTRY_POINTS = "testronaut_llm.providers"
ALIASES = {"ollama_chat": "ollama", "custom_openai": "openai", "cohere_chat": "cohere"}
_table: dict[str, Provider] = {}


def register_provider(provider: Provider) -> None:
    """Adds a row for the whole process. Raises ConfigError if there is a different row of that name."""
    name = provider.name
    if "/" in name or not name:
        raise ConfigError(f"a provider's name stands before the slash in llm.yaml; got {name!r}")
    if (_row_by_default(name) if name in listed() else _table.get(name)) not in (None, provider):
        raise ConfigError(
            f"a provider named {name!r} is registered already, and differs: "
            f"give the new one another name, such as {'my_' + name!r}"
        )
    _table[name] = provider
    find_provider.cache_clear()


def provider_of(model: ModelConfig) -> Provider:
    """Returns the row of a model's provider. Raises ConfigError if unknown; it names the closest one."""
    return find_provider(model.provider)


@lru_cache(maxsize=512)
def find_provider(name: str) -> Provider:
    """Returns the row of a name in `llm.yaml`: registered, listed, of a plugin, or from LiteLLM's data.

    Raises ConfigError if the name is unknown. If LiteLLM's list of names cannot be read, every name is accepted.
    """
    name = ALIASES.get(name, name)
    if name not in _table and name not in listed() and (point := _plugins().get(name)):
        register_provider(_loaded(point))
    if name in _table:
        return _table[name]
    known = frozenset() if name in listed() else litellm_names()
    if name in known or not known:
        return _row_by_default(name)
    close = closest(name, sorted({*_table, *ALIASES, *listed(), *_plugins(), *known}), cutoff=0.5)
    hint = f"did you mean {close + '/...'!r}? " if close else ""
    raise ConfigError(
        f"unknown provider {name!r}: {hint}An OpenAI-compatible server is `model: openai/<name>` "
        f"with its `api_base:`; `register_provider()` adds any other"
    )


def _row_by_default(name: str) -> Provider:
    """Returns the row from `providers.json` and LiteLLM's data.

    If only the name is known, `llm.yaml` must give an endpoint, and requests have OpenAI's form: LiteLLM's own way
    might open its own connection.
    """
    usual = Provider(
        name=name,
        litellm_prefix=name,
        schema_dialect="none",
        embedding_client="handler",
        key_variables=(_variable(name, "KEY"),),
        base_variables=(_variable(name, "BASE"),),
    )
    line = listed().get(name, {})
    if "litellm_prefix" not in line and (service := litellm_services().get(name)):
        return replace(usual, **{**line, "client": "openai", "wire": "openai", **service})
    return replace(usual, **(line or {"litellm_prefix": "openai", "required": ("api_base",), "rented": True}))


@cache
def listed() -> Mapping[str, Mapping[str, Any]]:
    """Returns the lines of `providers.json` as fields of rows, by name.

    A line without a prefix is of a provider in LiteLLM's code, for which our client needs the endpoint. The prefix is
    `openai` if LiteLLM does not know the provider, opens its own client, or fails on the answers. `ollama/` of LiteLLM
    is /api/generate with a prompt built by LiteLLM, so its prefix is `ollama_chat`.
    """
    lines = json.loads(Path(__file__).with_name("providers.json").read_text("utf-8"))
    for line in lines.values():
        for field, value in line.items():
            if isinstance(value, list):
                line[field] = frozenset(value) if field.endswith("extra") else tuple(value)
    return dict(lines)


@cache
def litellm_services() -> Mapping[str, Mapping[str, Any]]:
    """Returns the OpenAI-compatible services of LiteLLM's data, as fields of rows, if a key can go to them."""
    found: dict[str, dict[str, Any]] = {}
    with suppress(ValueError, AttributeError):  # a form that we do not know
        for name, row in json.loads(_litellm_file("llms/openai_like/providers.json")).items():
            given = row if isinstance(row, dict) else {}
            base, key, own = (str(given.get(field) or "") for field in ("base_url", "api_key_env", "api_base_env"))
            if base.startswith("https://") and not url_problem(base) and key.isidentifier():
                found[name] = {
                    "default_base": base.rstrip("/"),
                    "key_variables": (key,),
                    "base_variables": tuple(dict.fromkeys(filter(str.isidentifier, (own, _variable(name, "BASE"))))),
                }
    return found


def _variable(name: str, what: str) -> str:
    return f"{name.upper().replace('-', '_')}_API_{what}"


@cache
def litellm_names() -> frozenset[str]:
    """Returns all provider names of the installed LiteLLM; empty if its list is missing or has another form."""
    source = _litellm_file("types/utils.py")
    listing = re.search(r"^class LlmProviders\(.*?(?=^\S|\Z)", source, re.MULTILINE | re.DOTALL)
    quoted = re.findall(r"""^    \w+ = ["']([^"']+)["']""", listing[0] if listing else "", re.MULTILINE)
    found = frozenset((*quoted, *litellm_services()))
    return found if {"openai", "anthropic", "ollama"} <= found else frozenset()


def _litellm_file(path: str) -> str:
    """Returns the text of a file of the installed LiteLLM; empty if it cannot be read."""
    try:
        file = data_file("litellm", path)
        return file.read_text("utf-8") if file else ""
    except (OSError, UnicodeDecodeError):
        return ""


@cache
def _plugins() -> dict[str, metadata.EntryPoint]:
    """Returns the installed plugins by name. Slow: reads the metadata of all packages."""
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}


def _loaded(point: metadata.EntryPoint) -> Provider:
    plugin = f"provider {point.name!r}: its plugin {point.value!r}"
    try:
        found = point.load()
        provider = found() if callable(found) else found
    except Exception as error:  # noqa: BLE001 - a plugin of others may raise anything
        problem = f"failed to load ({type(error).__name__}: {error})"
        raise ConfigError(f"{plugin} {problem}; fix or uninstall its package") from None
    if isinstance(provider, Provider) and provider.name == point.name:
        return provider
    expected = f"a Provider named {point.name!r}, or a function that returns one"
    raise ConfigError(f"{plugin} must be {expected}; got {type(provider).__name__}")


def is_local(model: ModelConfig) -> bool:
    """True if `private` tasks may use it: a model server on loopback, or `local: true`; never a `-cloud` tag."""
    provider = provider_of(model)
    if leaves_by_name(model, provider):
        return False
    if model.local is not None:
        return model.local
    url = endpoint_of(model, provider).url
    return provider.local and (url is None or is_loopback(url))


def timeout_of(model: ModelConfig) -> float:
    """Returns the default seconds for one attempt: 600 for models that run here or nearby, else 120."""
    provider = provider_of(model)
    nearby = (provider.local and not leaves_by_name(model, provider)) or model.local
    return 600.0 if nearby else 120.0
