"""Stores of models: one that holds the tiny model, and one that holds none."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures_local import stored

from testronaut_llm.local.model_store import ModelStore


@pytest.fixture
def store(tmp_path: Path, tiny_gguf: Path) -> ModelStore:
    return stored(ModelStore(tmp_path / "models"), tiny_gguf)


@pytest.fixture
def empty(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")
