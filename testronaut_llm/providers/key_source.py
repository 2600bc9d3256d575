"""Where a model's key would come from, and whether it may travel there, without reading it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from testronaut_llm.providers import endpoint, entra, secret_readers
from testronaut_llm.providers.row import Missing
from testronaut_llm.support.text import host_of, is_loopback
from testronaut_llm.telemetry.redaction import Redactor

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.providers.row import Provider

ALLOW_HTTP = "TESTRONAUT_LLM_ALLOW_HTTP_KEYS"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """`name` is the variable, the file or the command; `missing` says what stops it; `note` is for `check`."""

    kind: Literal["variable", "file", "command", "entra", "none"]
    name: str = ""
    missing: Missing | None = None
    note: str = ""


def key_source(model: ModelConfig, provider: Provider) -> KeySource:
    """The first of `api_key_env`, `api_key_file`, `api_key_command`, the usual variables, Entra ID (Azure only)."""
    if missing := endpoint.not_trusted(model, provider):
        return KeySource(kind="none", missing=missing)
    source = _configured(model) or _usual(model, provider)
    if source.kind == "none":
        return source
    return replace(source, missing=_may_not_travel(model, provider) or source.missing)


def _configured(model: ModelConfig) -> KeySource | None:
    if name := model.api_key_env:
        return KeySource(kind="variable", name=name, missing=_unset(name), note=f"key from {_shown(name)}")
    if name := model.api_key_file:
        missing = _fault(secret_readers.check_file, name)
        return KeySource(kind="file", name=name, missing=missing, note="key from api_key_file")
    if name := model.api_key_command:
        missing = _fault(secret_readers.words_of, name)
        return KeySource(kind="command", name=name, missing=missing, note="key from api_key_command")
    return None


def _fault(check: Callable[[str], object], name: str) -> Missing | None:
    try:
        check(name)
    except secret_readers.UnreadableError as error:
        return error.missing
    return None


def _usual(model: ModelConfig, provider: Provider) -> KeySource:
    base = endpoint.base_of(model, provider)
    elsewhere = base.url is not None and not endpoint.is_own_host(base.url, provider)
    loopback = base.url is not None and is_loopback(base.url)
    found = next((name for name in provider.key_variables if os.environ.get(name, "").strip()), None)
    if (provider.local and (elsewhere or loopback)) or (
        provider.generic and elsewhere and not loopback and base.from_file
    ):
        withheld = f"{found} is not sent there unless `api_key_env: {found}` says so" if found else "no key"
        return KeySource(kind="none", note=withheld)
    if found and base.from_file and not model.trusted:  # a server on loopback that a stranger chose
        return KeySource(kind="none", note=f"no key: {found} is not sent to its api_base until llm.yaml is trusted")
    if found:
        return KeySource(kind="variable", name=found, note=f"key from {found}")
    if provider.wire == "azure" and entra.sign():
        return KeySource(kind="entra", missing=entra.fault(), note=f"Entra ID, because {entra.sign()} is set")
    if not provider.key_required or loopback or (provider.generic and elsewhere):
        return KeySource(kind="none", note="no key")
    return KeySource(kind="none", missing=_none_set(provider))


def _may_not_travel(model: ModelConfig, provider: Provider) -> Missing | None:
    base = endpoint.base_of(model, provider)
    if base.url is None or is_loopback(base.url):
        return None
    host = host_of(base.url)
    if base.url.lower().startswith("http:") and os.environ.get(ALLOW_HTTP) != "1":
        return Missing(
            f"the key would travel to {host!r} over plain http",
            f"use https in api_base, or accept the risk with: export {ALLOW_HTTP}=1",
        )
    return None


def _unset(name: str) -> Missing | None:
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        return Missing("api_key_env holds no name of a variable", "api_key_env: OPENAI_API_KEY")
    if os.environ.get(name, "").strip():
        return None
    return Missing(f"{_shown(name)} is not set", f"export {_shown(name)}=<your key>")


def _shown(name: str) -> str:
    """A key pasted where a name belongs must not reach a message."""
    return Redactor().redact(name)


def _none_set(provider: Provider) -> Missing:
    names = provider.key_variables
    if not names:
        return Missing(f"no key for {provider.name}", "name its variable in llm.yaml: api_key_env: <VARIABLE>")
    what = f"{names[0]} is not set" if len(names) == 1 else f"none of {', '.join(names)} is set"
    return Missing(what, f"export {names[0]}=<your key>")
