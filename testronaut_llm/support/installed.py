"""What is known of an installed package without importing it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path


def data_file(package: str, path: str) -> Path | None:
    """Returns a file of a package; None where the package or the file is not there."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a stand-in that a test program put into sys.modules
        return None
    files = (Path(folder, path) for folder in (spec and spec.submodule_search_locations) or ())
    return next((file for file in files if file.is_file()), None)


def version(package: str) -> str | None:
    """Returns the version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
