"""Files that are replaced whole: a crash leaves the old one or the new one, never half of either."""

from __future__ import annotations

import glob
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

STALE = 3600.0
"""Seconds after which nobody writes a temporary file any more."""


def write_atomically(path: Path, text: str, *, mode: int | None = None) -> None:
    """Replaces a file's text (UTF-8); a symbolic link stays, and the file it leads to is replaced.

    The folder must be there. Without a `mode` the file keeps its permissions; a new one has 0600.

    Raises:
        OSError: it could not be written; the old file is untouched.
    """
    real = path.resolve()
    if mode is None:
        mode = real.stat().st_mode & 0o7777 if real.exists() else 0o600
    handle, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name[:40]}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(real)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _settle_name(real.parent)
    for left in real.parent.glob(f".{glob.escape(real.name[:40])}.*.tmp"):  # by a process that was killed
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE:
                left.unlink()


def _settle_name(folder: Path) -> None:
    """The new name is safe on disk once its folder is; Windows has no such step."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
