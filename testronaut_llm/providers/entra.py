"""Azure without a key: tokens of Entra ID through azure-identity, when the environment asks for them.

There is no switch of ours. Without any key, a variable of azure-identity's own says that tokens are
wanted: a service principal (`AZURE_TENANT_ID`, `AZURE_CLIENT_ID`, ...), a workload or managed
identity, or `AZURE_TOKEN_CREDENTIALS` (`dev` for whoever ran `az login`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import suppress

from testronaut_llm.errors import MissingCredentialError
from testronaut_llm.providers.row import Missing

_SIGNS = (
    "AZURE_TOKEN_CREDENTIALS",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "IDENTITY_ENDPOINT",
    "MSI_ENDPOINT",
)
_SCOPE = "https://cognitiveservices.azure.com/.default"


def sign() -> str | None:
    """The variable that says that tokens are wanted, or None."""
    return next((name for name in _SIGNS if os.environ.get(name)), None)


def fault() -> Missing | None:
    """Is azure-identity there? It is not imported to find out."""
    with suppress(ModuleNotFoundError):  # of `azure` itself
        if importlib.util.find_spec("azure.identity"):
            return None
    return Missing("Entra ID needs azure-identity, which is not installed", "pip install 'testronaut-llm[azure]'")


class TokenSource:
    """Hands out a fresh token a call; azure-identity keeps and renews them behind it."""

    def __init__(self) -> None:
        from azure.identity import DefaultAzureCredential, get_bearer_token_provider

        self._credential = DefaultAzureCredential()
        scope = os.environ.get("AZURE_SCOPE") or _SCOPE
        self._provider: Callable[[], str] = get_bearer_token_provider(self._credential, scope)

    def token(self) -> str:
        """A bearer token for Azure OpenAI. Raises MissingCredentialError: no identity could be used."""
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
