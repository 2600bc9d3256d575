"""Looking up and adding rows. The table is the one piece of state that the process shares."""

from __future__ import annotations

import difflib
from importlib import metadata

from testronaut_llm.errors import ConfigError
from testronaut_llm.providers import litellm_names
from testronaut_llm.providers.row import Provider
from testronaut_llm.providers.rows import ALIASES, ROWS, default_row

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
    """The row of a name as `llm.yaml` spells it: built in, registered, of an installed plugin, or by default rules.

    Raises:
        ConfigError: nobody knows the name, or LiteLLM cannot reach it through a client of ours.
    """
    name = ALIASES.get(name, name)
    if name in _table:
        return _table[name]
    if name in litellm_names.OPENAI_CLIENT or name in litellm_names.HANDLER_CLIENT:
        return default_row(name)
    _load_entry_point(name)
    if name in _table:
        return _table[name]
    raise ConfigError(_why_not(name))


def _load_entry_point(name: str) -> None:
    for point in metadata.entry_points(group=ENTRY_POINTS, name=name):
        try:
            found = point.load()
            provider = found() if callable(found) else found
        except Exception as error:  # noqa: BLE001 - a plugin of others may raise anything
            raise ConfigError(
                f"provider {name!r}: its plugin {point.value!r} failed to load ({type(error).__name__}: {error}); "
                f"mend or uninstall the package that brings it"
            ) from None
        if not isinstance(provider, Provider) or provider.name != name:
            raise ConfigError(
                f"provider {name!r}: its plugin {point.value!r} must be a Provider named {name!r}, "
                f"or a function that returns one; got {type(provider).__name__}"
            )
        register_provider(provider)


def _why_not(name: str) -> str:
    if name in litellm_names.OWN_CLIENT:
        return (
            f"provider {name!r} is not supported: LiteLLM reaches it with a connection of its own, which may follow a "
            f"redirect with your key; if it has an OpenAI-form endpoint, write "
            f"`model: openai/<name>` with its `api_base:` and `api_key_env:`"
        )
    if name in litellm_names.NO_CHAT or name == "azure_text":
        return f"provider {name!r} serves neither chat nor embeddings through LiteLLM"
    usable = {*_table, *ALIASES, *litellm_names.OPENAI_CLIENT, *litellm_names.HANDLER_CLIENT}
    plugins = {point.name for point in metadata.entry_points(group=ENTRY_POINTS)}
    close = difflib.get_close_matches(name, sorted(usable | plugins), n=1, cutoff=0.5)
    hint = f"did you mean {close[0] + '/...'!r}? " if close else ""
    return (
        f"unknown provider {name!r}: {hint}An OpenAI-compatible server is `model: openai/<name>` "
        f"with its `api_base:`; `register_provider()` adds any other"
    )
