"""Is what is installed what it should be? LiteLLM's bad releases, and files that run at every start of Python.

Two releases of LiteLLM brought a `.pth` file that sent keys away without ever being imported.
"""

from __future__ import annotations

import importlib.metadata
import site
import sys
from collections.abc import Iterable
from pathlib import Path

from testronaut_llm.providers import network

BAD_LITELLM = ("1.82.7", "1.82.8")
KNOWN = ("distutils-precedence.pth", "_virtualenv.pth", "a1_coverage.pth", "pytest-cov.pth", "__editable__")
"""How the names begin of files that setuptools, virtualenv, coverage and editable installs bring."""


def litellm_version() -> str:
    """The version that is installed, without importing it."""
    return importlib.metadata.version("litellm")


def warnings(folders: Iterable[str] | None = None) -> list[str]:
    """What to look at in `folders` (this environment's), a sentence each; empty on a clean machine."""
    found = network.faults()
    version = litellm_version()
    if version in BAD_LITELLM:
        found.append(f"litellm {version} sends keys away: pip install 'litellm!={',!='.join(BAD_LITELLM)}', new keys")
    for folder in folders if folders is not None else _folders():
        found += [
            f"{file} runs code at every start of Python; if you do not know it, read it"
            for file in sorted(Path(folder).glob("*.pth"))
            if not file.name.startswith(KNOWN) and _runs_code(file)
        ]
    return found


def _folders() -> list[str]:
    own = site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
    return [folder for folder in dict.fromkeys(own) if folder in sys.path]


def _runs_code(file: Path) -> bool:
    """Python's `site` executes the lines that start with `import`."""
    try:
        lines = file.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith(("import ", "import\t")) for line in lines)
