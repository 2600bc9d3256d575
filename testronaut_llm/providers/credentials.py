"""Where a model's key comes from, whether it may travel there, and the key itself: fetched late, for one call.

Only what an `api_key_command` printed is remembered, for some minutes and by one `Credentials`
object: such a command may take seconds, or ask a person. Azure has a second way: without any key, a
variable of azure-identity's own (`AZURE_TENANT_ID`, `AZURE_TOKEN_CREDENTIALS`, ...) asks for tokens of Entra ID.
"""

from __future__ import annotations

import importlib.util
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pydantic import SecretStr

from testronaut_llm.errors import MissingCredentialError
from testronaut_llm.providers import endpoint
from testronaut_llm.providers.row import Missing
from testronaut_llm.providers.secret_readers import UnreadableError, one_word, read_file, run_command, words_of
from testronaut_llm.support.text import host_of, is_loopback
from testronaut_llm.telemetry.redaction import Redactor

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.providers.row import Provider

ALLOW_HTTP = "TESTRONAUT_LLM_ALLOW_HTTP_KEYS"
_ENTRA_VARIABLES = (
    "AZURE_TOKEN_CREDENTIALS", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE",
    "IDENTITY_ENDPOINT", "MSI_ENDPOINT",
)  # fmt: skip
_ENTRA_SCOPE = "https://cognitiveservices.azure.com/.default"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """`name` is the variable, the file or the command; `missing` says what stops it; `note` is for `check`."""

    kind: Literal["variable", "file", "command", "entra", "none"]
    name: str = ""
    missing: Missing | None = None
    note: str = ""


class Credentials:
    """The keys of one manager; safe for threads. A command's output is used again for `remember` seconds."""

    def __init__(self, *, remember: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._remember = remember
        self._clock = clock
        self._lock = threading.Lock()
        self._printed: dict[str, tuple[float, SecretStr]] = {}
        self._tokens: _TokenSource | None = None

    def key(self, model: ModelConfig, provider: Provider) -> SecretStr | None:
        """Returns the key for one call, or None where none is sent (keyless servers, Entra ID).

        May run a command (up to 30 seconds), so keep it off an event loop.

        Raises:
            MissingCredentialError: what is missing, and the line that fixes it.
        """
        source = key_source(model, provider)
        try:
            if source.missing:
                raise UnreadableError(*source.missing)
            return self._fetch(source)
        except UnreadableError as error:
            raise _error(error.missing, model, provider) from None

    def token_provider(self, model: ModelConfig, provider: Provider) -> Callable[[], str] | None:
        """Returns what gives a fresh Entra ID token, for Azure without a key. Raises MissingCredentialError."""
        source = key_source(model, provider)
        if source.kind != "entra":
            return None
        if source.missing:
            raise _error(source.missing, model, provider)
        with self._lock:
            self._tokens = self._tokens or _TokenSource()
            return self._tokens.token

    def forget(self) -> None:
        """Drops what commands printed, as after a key was refused."""
        with self._lock:
            self._printed.clear()

    def close(self) -> None:
        """Forgets all and ends azure-identity's connections."""
        self.forget()
        with self._lock:
            tokens, self._tokens = self._tokens, None
        if tokens:
            tokens.close()

    def _fetch(self, source: KeySource) -> SecretStr | None:
        if source.kind == "variable":
            raw = os.environ.get(source.name, "").encode("utf-8", errors="replace")
            return SecretStr(one_word(raw, f"the variable {source.name}"))
        if source.kind == "file":
            return SecretStr(read_file(source.name))
        return self._from_command(source.name) if source.kind == "command" else None

    def _from_command(self, command: str) -> SecretStr:
        with self._lock:  # held while it runs: a password manager is asked once, not once a thread
            until, secret = self._printed.get(command, (0.0, SecretStr("")))
            if self._clock() < until:
                return secret
            secret = SecretStr(run_command(command))
            self._printed[command] = (self._clock() + self._remember, secret)
            return secret


def resolve_key(model: ModelConfig, provider: Provider) -> SecretStr | None:
    """Returns `Credentials.key`, once, remembering nothing. Raises MissingCredentialError, with the line to write."""
    return Credentials().key(model, provider)


def _error(missing: Missing, model: ModelConfig, provider: Provider) -> MissingCredentialError:
    mend = f"; {missing.mend}" if missing.mend else ""
    return MissingCredentialError(f"{model.alias}: {missing.what}{mend}", model=model.alias, provider=provider.name)


def key_source(model: ModelConfig, provider: Provider) -> KeySource:
    """Returns the first of `api_key_env`, `api_key_file`, `api_key_command`, the usual variables, Entra ID (Azure)."""
    if missing := endpoint.not_trusted(model, provider):
        return KeySource(kind="none", missing=missing)
    source = _configured(model) or _usual(model, provider)
    if source.kind == "none":
        return source
    return replace(source, missing=_may_not_travel(model, provider) or source.missing)


def _configured(model: ModelConfig) -> KeySource | None:
    if name := model.api_key_env:
        shown = Redactor().redact(name)  # a key pasted where a name belongs must not reach a message
        missing = None if os.environ.get(name, "").strip() else _not_set(shown)
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            missing = Missing("api_key_env holds no name of a variable", "api_key_env: OPENAI_API_KEY")
        return KeySource(kind="variable", name=name, missing=missing, note=f"key from {shown}")
    if name := model.api_key_file:
        return KeySource(kind="file", name=name, missing=_problem(read_file, name), note="key from api_key_file")
    if name := model.api_key_command:
        return KeySource(kind="command", name=name, missing=_problem(words_of, name), note="key from api_key_command")
    return None


def _not_set(name: str) -> Missing:
    return Missing(f"{name} is not set", f"export {name}=<your key>")


def _problem(check: Callable[[str], object], name: str) -> Missing | None:
    try:
        check(name)
    except UnreadableError as error:
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
    sign = next((name for name in _ENTRA_VARIABLES if os.environ.get(name)), None)
    if provider.wire == "azure" and sign:
        return KeySource(kind="entra", missing=_no_identity(), note=f"Entra ID, because {sign} is set")
    if not provider.key_required or loopback or (provider.generic and elsewhere):
        return KeySource(kind="none", note="no key")
    return KeySource(kind="none", missing=_none_set(provider))


def _none_set(provider: Provider) -> Missing:
    names = provider.key_variables
    if not names:
        return Missing(f"no key for {provider.name}", "name its variable in llm.yaml: api_key_env: <VARIABLE>")
    what = f"{names[0]} is not set" if len(names) == 1 else f"none of {', '.join(names)} is set"
    return Missing(what, f"export {names[0]}=<your key>")


def _may_not_travel(model: ModelConfig, provider: Provider) -> Missing | None:
    url = endpoint.base_of(model, provider).url
    if url is None or is_loopback(url) or not url.lower().startswith("http:") or os.environ.get(ALLOW_HTTP) == "1":
        return None
    return Missing(
        f"the key would travel to {host_of(url)!r} over plain http",
        f"use https in api_base, or accept the risk with: export {ALLOW_HTTP}=1",
    )


def _no_identity() -> Missing | None:
    """Looks for azure-identity without importing it."""
    with suppress(ModuleNotFoundError):  # of `azure` itself
        if importlib.util.find_spec("azure.identity"):
            return None
    return Missing("Entra ID needs azure-identity, which is not installed", "pip install 'testronaut-llm[azure]'")


class _TokenSource:
    """Hands out a fresh token a call; azure-identity keeps and renews them behind it."""

    def __init__(self) -> None:
        from azure.identity import DefaultAzureCredential, get_bearer_token_provider

        self._credential = DefaultAzureCredential()
        scope = os.environ.get("AZURE_SCOPE") or _ENTRA_SCOPE
        self._provider: Callable[[], str] = get_bearer_token_provider(self._credential, scope)

    def token(self) -> str:
        """Returns a bearer token for Azure OpenAI. Raises MissingCredentialError: no identity could be used."""
        from azure.core.exceptions import AzureError

        try:
            return self._provider()
        except (AzureError, OSError, ValueError) as error:  # the latter of a certificate file or proxy of no use
            raise MissingCredentialError(
                f"Entra ID gave no token ({type(error).__name__}); try: az login, "
                f"or check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
            ) from None

    def close(self) -> None:
        """Ends azure-identity's connections."""
        self._credential.close()
