"""Where files of the user live: the platform's folders, or all under `TESTRONAUT_LLM_HOME`."""

from __future__ import annotations

import os
from pathlib import Path

from testronaut_llm.errors import ConfigError

APP = "testronaut-llm"
_NO_HOME = (
    "HOME is not set to a folder, and this user is not in the passwd file; "
    "set HOME, or TESTRONAUT_LLM_HOME to a folder that you may write"
)


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


def user_path(text: str | Path) -> Path:
    """Returns a path with `~` filled in; `~nobody` stays as it is. Raises ConfigError: this user has no home folder."""
    path = os.path.expanduser(text)  # noqa: PTH111 - which raises RuntimeError in pathlib
    if path == "~" or path.startswith(("~/", "~\\")):
        raise ConfigError(f"no home folder for {text}: {_NO_HOME}")
    return Path(path)


def _folder(kind: str) -> Path:
    home = os.environ.get("TESTRONAUT_LLM_HOME")
    if home:
        return user_path(home) / kind
    import platformdirs

    try:
        return user_path(getattr(platformdirs, f"user_{kind}_dir")(APP, appauthor=False))
    except RuntimeError:  # of platformdirs, for the same reason
        raise ConfigError(f"no home folder for {kind}: {_NO_HOME}") from None
