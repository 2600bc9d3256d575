"""Where files of the user live: the platform's folders, or all under `TESTRONAUT_LLM_HOME`."""

from __future__ import annotations

import os
from pathlib import Path

APP = "testronaut-llm"


def config_dir() -> Path:
    """Folder of the user's own `llm.yaml`."""
    return _folder("config")


def data_dir() -> Path:
    """Folder of models, the ledger and what was learned; not to be thrown away."""
    return _folder("data")


def cache_dir() -> Path:
    """Folder of stored answers; safe to delete."""
    return _folder("cache")


def made(folder: Path) -> Path:
    """Makes a folder, and those above it, for its owner's eyes alone (0700). Raises OSError: it cannot be made."""
    if not folder.is_dir():
        if not folder.parent.is_dir():
            made(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _folder(kind: str) -> Path:
    home = os.environ.get("TESTRONAUT_LLM_HOME")
    if home:
        return Path(home).expanduser() / kind
    import platformdirs

    folder: Path = getattr(platformdirs, f"user_{kind}_path")(APP, appauthor=False)
    return folder
