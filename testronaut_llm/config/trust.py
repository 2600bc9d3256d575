"""Which configuration files the user has looked at: path and digest, as direnv does it.

An `llm.yaml` that was found by walking upwards may have come with somebody's repository. Until it is
trusted it runs no command and sends no usual key to a host of its own choice; an edit ends the trust.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from testronaut_llm.errors import ConfigError
from testronaut_llm.support.atomic_file import write_atomically
from testronaut_llm.support.paths import data_dir, made, user_path
from testronaut_llm.support.text import read_utf8


def is_trusted(path: Path, text: str) -> bool:
    """Returns whether exactly this text was trusted at exactly this path."""
    try:
        record = json.loads(record_of(path).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record == _record(path, text)


def trust(path: str | Path) -> Path:
    """Records the file as it is now; returns its resolved path. Raises ConfigError: it cannot be read or recorded."""
    real = user_path(path).resolve()
    record = record_of(real)
    try:
        text = read_utf8(real)
        made(record.parent)
        write_atomically(record, json.dumps(_record(real, text)), mode=0o600)
    except OSError as error:
        raise ConfigError(f"cannot trust {real}: {error}", file=str(real)) from None
    return real


def record_of(path: Path) -> Path:
    """Returns the file that holds the record for a path; one a path, so that two at once lose nothing."""
    return data_dir() / "trusted" / f"{_digest(str(path.resolve()))}.json"


def _record(path: Path, text: str) -> dict[str, str]:
    return {"path": str(path.resolve()), "sha256": _digest(text)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
