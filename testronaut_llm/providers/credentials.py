"""Keys are fetched late, for one call, and handed on as a SecretStr.

Only what an `api_key_command` printed is remembered, for some minutes and by one `Credentials`
object: such a command may take seconds, or ask a person.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import SecretStr

from testronaut_llm.errors import MissingCredentialError
from testronaut_llm.providers import secret_readers
from testronaut_llm.providers.entra import TokenSource
from testronaut_llm.providers.key_source import KeySource, key_source

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.providers.row import Missing, Provider


class Credentials:
    """The keys of one manager; safe for threads. A command's output is used again for `remember` seconds."""

    def __init__(self, *, remember: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._remember = remember
        self._clock = clock
        self._lock = threading.Lock()
        self._printed: dict[str, tuple[float, SecretStr]] = {}
        self._tokens: TokenSource | None = None

    def key(self, model: ModelConfig, provider: Provider) -> SecretStr | None:
        """The key for one call, or None where none is sent (keyless servers, Entra ID).

        May run a command (up to 30 seconds), so keep it off an event loop.

        Raises:
            MissingCredentialError: what is missing, and the line that mends it.
        """
        source = key_source(model, provider)
        if source.missing:
            raise _missing(source.missing, model, provider)
        try:
            return self._fetch(source)
        except secret_readers.UnreadableError as error:
            raise _missing(error.missing, model, provider) from None

    def token_provider(self, model: ModelConfig, provider: Provider) -> Callable[[], str] | None:
        """For Azure without a key: what gives a fresh Entra ID token; else None. Raises MissingCredentialError."""
        source = key_source(model, provider)
        if source.kind != "entra":
            return None
        if source.missing:
            raise _missing(source.missing, model, provider)
        with self._lock:
            self._tokens = self._tokens or TokenSource()
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
            return SecretStr(secret_readers.one_word(raw, f"the variable {source.name}"))
        if source.kind == "file":
            return SecretStr(secret_readers.read_file(source.name))
        return self._from_command(source.name) if source.kind == "command" else None

    def _from_command(self, command: str) -> SecretStr:
        with self._lock:  # held while it runs: a password manager is asked once, not once a thread
            until, secret = self._printed.get(command, (0.0, SecretStr("")))
            if self._clock() < until:
                return secret
            secret = SecretStr(secret_readers.run_command(command))
            self._printed[command] = (self._clock() + self._remember, secret)
            return secret


def resolve_key(model: ModelConfig, provider: Provider) -> SecretStr | None:
    """`Credentials.key`, once, remembering nothing. Raises MissingCredentialError, with the line that mends it."""
    return Credentials().key(model, provider)


def _missing(missing: Missing, model: ModelConfig, provider: Provider) -> MissingCredentialError:
    mend = f"; {missing.mend}" if missing.mend else ""
    return MissingCredentialError(f"{model.alias}: {missing.what}{mend}", model=model.alias, provider=provider.name)
