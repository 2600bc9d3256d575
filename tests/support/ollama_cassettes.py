"""How tests name the recordings of a real Ollama server, and what their match leaves out."""

from __future__ import annotations

from typing import Any

import pytest


def recording(name: str, *values: Any, ignored: tuple[str, ...] = ()) -> Any:
    """A test case that replays `cassettes/ollama/<name>.yaml`; `ignored` are body fields that differ from ours."""
    return pytest.param(*values, id=name, marks=pytest.mark.llm_cassette(f"ollama/{name}", ignored=ignored))
