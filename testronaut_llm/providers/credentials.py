"""Finds the source of a model's key, checks that it may be sent to the endpoint, and reads it for one call."""

import importlib.util
import os
import re
import shlex
import shutil
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import SecretStr

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import MissingCredentialError
from testronaut_llm.providers.provider import Endpoint, Missing, Provider, endpoint_of, is_own_host, not_trusted
from testronaut_llm.support.paths import install, user_path
from testronaut_llm.support.text import host_of, is_loopback
from testronaut_llm.telemetry.redaction import Redactor

Key = SecretStr | Callable[[], str]
"""A key, or a function that gives a token; it raises MissingCredentialError if no identity works."""
ALLOW_HTTP = "TESTRONAUT_LLM_ALLOW_HTTP_KEYS"
_ENTRA_VARIABLES = (
    "AZURE_TOKEN_CREDENTIALS", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE",
    "IDENTITY_ENDPOINT", "MSI_ENDPOINT",
)  # fmt: skip
"""Variables of azure-identity. Without a key, one of them selects tokens of Entra ID."""
_ENTRA_SCOPE = "https://cognitiveservices.azure.com/.default"
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """`name` is the variable, the file or the command; `missing` is why it cannot be used; `note` is for `check`."""

    kind: Literal["variable", "file", "command", "entra", "none"]
    name: str = ""
    missing: Missing | None = None
    note: str = ""


class Credentials:
    """The keys of one manager; safe for threads.

    Only the output of an `api_key_command` is remembered, for `remember` seconds: it may take long, or ask a person.
    """

    def __init__(self, *, remember: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._remember = remember
        self._clock = clock
        self._lock = threading.Lock()
        self._printed: dict[str, tuple[float, SecretStr]] = {}
        self._identity: tuple[Any, Callable[[], str]] | None = None

    def key(self, model: ModelConfig, provider: Provider) -> Key | None:
        """Returns the key for one call, a function that gives a token of Entra ID, or None if none is sent.

        May run a command (up to 30 seconds), so keep it off an event loop. Raises MissingCredentialError, with the fix.
        """
        source = key_source(model, provider)
        if source.missing:
            raise _error(source.missing, model, provider)
        try:
            if source.kind == "variable":
                raw = os.environ.get(source.name, "").encode("utf-8", errors="replace")
                return SecretStr(one_word(raw, f"the variable {source.name}"))
            if source.kind == "file":
                return SecretStr(read_file(source.name))
            if source.kind == "command":
                return self._from_command(source.name)
        except UnreadableError as error:
            raise _error(error.missing, model, provider) from None
        return self._entra_token() if source.kind == "entra" else None

    def _from_command(self, command: str) -> SecretStr:
        with self._lock:  # locked while it runs: a password manager is asked once, not once a thread
            expires, secret = self._printed.get(command, (0.0, SecretStr("")))
            if self._clock() >= expires:
                secret = SecretStr(run_command(command))
                self._printed[command] = (self._clock() + self._remember, secret)
            return secret

    def _entra_token(self) -> Callable[[], str]:
        """Returns a function that gives a token, which azure-identity keeps and renews."""
        with self._lock:
            if self._identity is None:
                from azure.identity import DefaultAzureCredential, get_bearer_token_provider

                identity = DefaultAzureCredential()
                scope = os.environ.get("AZURE_SCOPE") or _ENTRA_SCOPE
                self._identity = identity, _typed(get_bearer_token_provider(identity, scope))
            return self._identity[1]

    def forget(self) -> None:
        """Drops the remembered keys, as after a key was refused."""
        with self._lock:
            self._printed.clear()

    def close(self) -> None:
        """Drops all keys, and closes the connections of azure-identity."""
        self.forget()
        with self._lock:
            identity, self._identity = self._identity, None
        if identity:
            identity[0].close()


def _typed(ask: Callable[[], str]) -> Callable[[], str]:
    """Returns azure-identity's `ask` with our errors in place of its long texts."""

    def token() -> str:
        from azure.core.exceptions import AzureError

        try:
            return ask()
        except (AzureError, OSError, ValueError) as error:  # the last two for an unusable certificate file or proxy
            raise MissingCredentialError(
                f"Entra ID gave no token ({type(error).__name__}); try: az login, "
                f"or check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
            ) from None

    return token


def resolve_key(model: ModelConfig, provider: Provider) -> SecretStr | None:
    """Returns the key for one call, without remembering it. Raises MissingCredentialError, with the line to write."""
    key = Credentials().key(model, provider)
    return key if isinstance(key, SecretStr) else None


def _error(missing: Missing, model: ModelConfig, provider: Provider) -> MissingCredentialError:
    words = f"{missing.what}; {missing.fix}".removesuffix("; ")
    return MissingCredentialError(f"{model.alias}: {words}", model=model.alias, provider=provider.name)


def key_source(model: ModelConfig, provider: Provider) -> KeySource:
    """Returns the first of `api_key_env`, `api_key_file`, `api_key_command`, the usual variables, Entra ID (Azure)."""
    if missing := not_trusted(model, provider):
        return KeySource(kind="none", missing=missing)
    endpoint = endpoint_of(model, provider)
    url = endpoint.url or ""
    if model.api_key_env or model.api_key_file or model.api_key_command:
        source = _configured(model)
    else:
        source = _usual(model, provider, endpoint)
    if source.kind == "none" or os.environ.get(ALLOW_HTTP) == "1":
        return source
    if not url.lower().startswith("http:") or is_loopback(url):
        return source
    what = f"the key would be sent to {host_of(url)!r} over plain http"
    fix = f"use https in api_base, or accept the risk with: export {ALLOW_HTTP}=1"
    return replace(source, missing=Missing(what, fix))


def _configured(model: ModelConfig) -> KeySource:
    """Returns the source that the file names. A command is searched for, but not run."""
    missing = None
    if name := model.api_key_env:
        shown = Redactor().redact(name)  # a key pasted where a name belongs must not reach a message
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            missing = Missing("api_key_env is not the name of a variable", "api_key_env: OPENAI_API_KEY")
        elif not _is_set(name):
            missing = Missing(f"{shown} is not set", f"export {shown}='your key'")
        return KeySource(kind="variable", name=name, missing=missing, note=f"key from {shown}")
    file, command = model.api_key_file, model.api_key_command or ""
    try:
        _ = read_file(file) if file else words_of(command)
    except UnreadableError as error:
        missing = error.missing
    if file:
        return KeySource(kind="file", name=file, missing=missing, note="key from api_key_file")
    return KeySource(kind="command", name=command, missing=missing, note="key from api_key_command")


def _usual(model: ModelConfig, provider: Provider, endpoint: Endpoint) -> KeySource:
    """Returns the usual variable, Entra ID or none: a usual key is not sent to a host that is not its provider's."""
    elsewhere = endpoint.url is not None and not is_own_host(endpoint.url, provider)
    loopback = endpoint.url is not None and is_loopback(endpoint.url)
    names = provider.key_variables
    found = next(filter(_is_set, names), None)
    if (provider.local and (elsewhere or loopback)) or (
        provider.generic and elsewhere and not loopback and endpoint.from_file
    ):
        withheld = f"{found} is not sent there without `api_key_env: {found}`" if found else "no key is sent"
        return KeySource(kind="none", note=withheld)
    if found and endpoint.from_file and not model.trusted:  # a server on loopback, chosen by a file that is not trusted
        return KeySource(kind="none", note=f"no key: {found} is not sent to its api_base until llm.yaml is trusted")
    if found:
        return KeySource(kind="variable", name=found, note=f"key from {found}")
    sign = next(filter(os.environ.get, _ENTRA_VARIABLES), None) if provider.wire == "azure" else None
    if sign:
        return KeySource(kind="entra", missing=_no_identity(), note=f"Entra ID, because {sign} is set")
    if not provider.key_required or loopback or (provider.generic and elsewhere):
        return KeySource(kind="none", note="needs no key")
    if not names:
        what, fix = f"no key for {provider.name}", "name its variable in llm.yaml: api_key_env: <VARIABLE>"
        return KeySource(kind="none", missing=Missing(what, fix))
    what = f"{names[0]} is not set" if len(names) == 1 else f"none of {', '.join(names)} is set"
    return KeySource(kind="none", missing=Missing(what, f"export {names[0]}='your key'"))


def _is_set(variable: str) -> bool:
    return bool(os.environ.get(variable, "").strip())


def _no_identity() -> Missing | None:
    """Returns what is missing for Entra ID; does not import azure-identity."""
    with suppress(ModuleNotFoundError):  # of `azure` itself
        if importlib.util.find_spec("azure.identity"):
            return None
    return Missing("Entra ID needs azure-identity, which is not installed", install("azure"))


class UnreadableError(Exception):
    """The key cannot be read. Holds a `Missing`, never a part of the secret."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.missing = Missing(what, fix)


def read_file(name: str) -> str:
    """Returns the key in a file. Raises UnreadableError if it is missing, readable by others, or not just a key."""
    path = user_path(name)
    shown = f"api_key_file {str(path)!r}"
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a named pipe must not block
        try:
            mode = os.fstat(handle).st_mode  # of the open file, which cannot be replaced as its name can
            raw = os.read(handle, _MAX_BYTES) if stat.S_ISREG(mode) else b""
        finally:
            os.close(handle)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableError(f"{shown} cannot be read ({reason})", "correct its path in llm.yaml") from None
    if not stat.S_ISREG(mode):
        raise UnreadableError(f"{shown} is not a file", "name a file that holds the key and nothing else")
    if os.name == "posix" and mode & 0o077:
        words = f"{shown} can be read by others (mode {stat.S_IMODE(mode):04o})"
        raise UnreadableError(words, f"chmod 600 {shlex.quote(str(path))}")
    return one_word(raw, shown)


def run_command(command: str, *, timeout: float = 30.0) -> str:
    """Returns the key that a command prints within `timeout` seconds. Raises UnreadableError if it prints none."""
    import subprocess  # imports much that only a command needs
    from subprocess import DEVNULL, PIPE

    words = words_of(command)
    shown = f"api_key_command {words[0]!r}"
    try:
        # The user's own line of a trusted llm.yaml, without a shell. Its error output may hold secrets.
        done = subprocess.run(words, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, timeout=timeout, check=False)  # noqa: S603
        problem = f"ended with status {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"gave no key within {timeout:g} seconds"
    except OSError as error:
        problem = f"cannot be run ({error.strerror})"
    if problem:
        raise UnreadableError(f"{shown} {problem}", "run the command by hand to see why")
    return one_word(done.stdout, shown)


def one_word(raw: bytes, origin: str) -> str:
    """Returns bytes as a key: printable ASCII without blanks, as HTTP takes it. Raises UnreadableError for others."""
    text = raw.decode("utf-8-sig", errors="replace").strip()
    if not text:
        raise UnreadableError(f"{origin} holds no key", "put the key there, alone on one line")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise UnreadableError(f"{origin} holds more than a key", "a key is one word of plain ASCII, on one line")
    return text


def words_of(command: str) -> list[str]:
    """Returns the words of a command line, if its program exists; does not run it. Raises UnreadableError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UnreadableError(f"api_key_command is not a command line ({error})", "fix its quotes") from None
    if not words:
        raise UnreadableError("api_key_command is empty", "api_key_command: pass show openai")
    if shutil.which(words[0]) is None:
        raise UnreadableError(f"api_key_command {words[0]!r} is not on PATH", f"install {words[0]!r} or fix the line")
    return words
