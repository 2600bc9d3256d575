"""What is installed: LiteLLM's version, and a warning of its bad releases, which sent keys away."""

from __future__ import annotations

import importlib.metadata

BAD_LITELLM = ("1.82.7", "1.82.8")


def litellm_version() -> str:
    """Returns the version that is installed, without importing it."""
    return importlib.metadata.version("litellm")


def warnings() -> list[str]:
    """Returns what to look at, a sentence each; empty on a clean machine."""
    version = litellm_version()
    if version not in BAD_LITELLM:
        return []
    return [f"litellm {version} sends keys away: pip install 'litellm!={',!='.join(BAD_LITELLM)}', new keys"]
