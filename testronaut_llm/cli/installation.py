"""Warns of releases of LiteLLM: the two that sent keys away, and those that are newer than the tested ones."""

from __future__ import annotations

import re

from testronaut_llm.providers import litellm_data, network
from testronaut_llm.support.paths import version

TESTED_LITELLM = "1.110.2"
"""The newest release that the tests have passed with: the locked one."""

BAD_LITELLM = ("1.82.7", "1.82.8")


def litellm_version() -> str:
    """Returns the version that is installed, without importing it, or `not installed`."""
    return version("litellm") or "not installed"


def warnings() -> list[str]:
    """Returns what to look at, a sentence each; nothing on a clean machine."""
    found = network.faults()
    litellm = litellm_version()
    if litellm in BAD_LITELLM:
        found.append(f"litellm {litellm} sends keys away: pip install 'litellm!={',!='.join(BAD_LITELLM)}', new keys")
    if _release(litellm) > _release(TESTED_LITELLM):
        found.append(
            f"litellm {litellm} is newer than {TESTED_LITELLM}, the newest release that was tested; "
            f"if calls fail, run: pip install 'litellm=={TESTED_LITELLM}'"
        )
    if not litellm_data.names():
        found.append("the provider names of litellm cannot be read, so a misspelt provider is not reported")
    return found


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
