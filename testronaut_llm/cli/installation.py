"""Warns of the two releases of LiteLLM that sent keys away without ever being imported."""

from __future__ import annotations

import importlib.metadata

BAD_LITELLM = ("1.82.7", "1.82.8")


def litellm_version() -> str:
    """The version that is installed, without importing it."""
    return importlib.metadata.version("litellm")


def warnings() -> list[str]:
    """What to look at, a sentence each; empty on a clean machine."""
    found = []
    version = litellm_version()
    if version in BAD_LITELLM:
        found.append(f"litellm {version} sends keys away: pip install 'litellm!={',!='.join(BAD_LITELLM)}', new keys")
    return found
