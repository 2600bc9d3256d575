"""Files: the user's folders, atomic replacement, SQLite connections; packages: installed ones, and how to install."""

import contextlib
import errno
import importlib.metadata
import importlib.util
import os
import sqlite3
import tempfile
from pathlib import Path

from testronaut_llm.errors import ConfigError

APP = "testronaut-llm"
SOURCE = "."
"""The argument of pip: the source folder, in which the command is run. A release writes the name on the index here."""


def config_dir() -> Path:
    """Returns the folder of the user's own `llm.yaml`."""
    return _folder("config")


def data_dir() -> Path:
    """Returns the folder of models, the ledger and token observations; do not delete it."""
    return _folder("data")


def cache_dir() -> Path:
    """Returns the folder of stored answers; safe to delete."""
    return _folder("cache")


def make_folder(folder: Path) -> Path:
    """Creates a folder and its parents, readable by the owner only (0700). Raises OSError if that fails."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def user_path(text: str | Path) -> Path:
    """Returns a path with `~` filled in; `~nobody` stays as it is. Raises ConfigError: no home folder."""
    path = os.path.expanduser(text)  # noqa: PTH111 - which raises RuntimeError in pathlib
    if path == "~" or path.startswith(("~/", "~\\")):
        raise _no_home(str(text))
    return Path(path)


def size_of(file: Path) -> int:
    """Returns the bytes of a file; 0 if it is missing."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def write_atomically(path: Path, text: str, *, mode: int | None = None) -> None:
    """Replaces a file's text (UTF-8). After a crash, or an OSError, the file is the old one or the new one, complete.

    A symbolic link stays, and its target is replaced. The folder must exist. Without a `mode` the file keeps its
    permissions; a new one has 0600.
    """
    real = Path(os.path.realpath(path))  # `resolve` raises RuntimeError for a loop of links
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


def data_file(package: str, path: str) -> Path | None:
    """Returns a file of an installed package, which is not imported; None if the package or the file is missing."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a fake module in sys.modules
        return None
    files = (Path(folder, path) for folder in (spec and spec.submodule_search_locations) or ())
    return next((file for file in files if file.is_file()), None)


def version(package: str) -> str | None:
    """Returns the version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def install(extra: str = "") -> str:
    """Returns the command for an extra of `pyproject.toml`, such as `embedded`; without one, for a newer version."""
    where = " (in the source folder of testronaut-llm)" if SOURCE == "." else ""
    return (f"pip install '{SOURCE}[{extra}]'" if extra else f"pip install --upgrade {SOURCE}") + where


class Connection(sqlite3.Connection):
    """A SQLite connection that closes when its last reference goes; Python 3.13 warns if SQLite does that.

    Create it with `check_same_thread=False`, since any thread may drop the last reference.
    """

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # it was not opened
            self.close()


def is_corrupt(error: BaseException) -> bool:
    """True if a SQLite file must be replaced."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT"))


def fix_of(error: BaseException, file: Path) -> str:
    """Returns the command that fixes an error of SQLite, or of its file; empty if none is known."""
    name = getattr(error, "sqlite_errorname", "")
    if isinstance(error, TimeoutError) or name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"another process holds it: fuser -v {file} shows which"
    full = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")) or getattr(error, "errno", None) in full:
        return f"free space on its disk: df -h {file.parent}"
    if isinstance(error, PermissionError) or name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"make it writable: chmod -R u+rwX {file.parent}"
    return ""


def _folder(kind: str) -> Path:
    home = os.environ.get("TESTRONAUT_LLM_HOME")
    if home:
        return user_path(home) / kind
    import platformdirs

    try:
        return user_path(getattr(platformdirs, f"user_{kind}_dir")(APP, appauthor=False))
    except RuntimeError:  # platformdirs finds no home folder
        raise _no_home(kind) from None


def _no_home(wanted: str) -> ConfigError:
    return ConfigError(
        f"no home folder for {wanted}: HOME is not set to a folder, and this user is not in the passwd file; "
        "set HOME, or TESTRONAUT_LLM_HOME to a folder that you may write"
    )
