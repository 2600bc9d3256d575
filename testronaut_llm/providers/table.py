"""Looking up and adding rows. The table is the one piece of state that the process shares."""

from __future__ import annotations

from functools import cache
from importlib import metadata

from testronaut_llm.errors import ConfigError
from testronaut_llm.providers import litellm_data
from testronaut_llm.providers.row import Provider
from testronaut_llm.providers.rows import ALIASES, BY_HANDLER, BY_OPENAI_CLIENT, ROWS, default_row
from testronaut_llm.support.text import closest

ENTRY_POINTS = "testronaut_llm.providers"

_table: dict[str, Provider] = {row.name: row for row in ROWS}


def register_provider(provider: Provider) -> None:
    """Adds a row for the whole process.

    Raises:
        ConfigError: a different row of that name is there.
    """
    there = _table.get(provider.name)
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
    if name in BY_OPENAI_CLIENT or name in BY_HANDLER:
        return default_row(name)
    if point := _plugins().get(name):
        register_provider(_loaded(point))
        return _table[name]
    known = litellm_data.names()
    if name in known or not known:
        return default_row(name)
    raise ConfigError(_unknown(name))


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
    usable = {*_table, *ALIASES, *BY_OPENAI_CLIENT, *BY_HANDLER, *_plugins(), *litellm_data.names()}
    close = closest(name, sorted(usable), cutoff=0.5)
    hint = f"did you mean {close + '/...'!r}? " if close else ""
    return (
        f"unknown provider {name!r}: {hint}An OpenAI-compatible server is `model: openai/<name>` "
        f"with its `api_base:`; `register_provider()` adds any other"
    )
