"""Warns of what is installed: LiteLLM's bad and untested releases, and files that run at every start of Python.

Two releases of LiteLLM brought a `.pth` file that sent keys away without ever being imported.
"""

from __future__ import annotations

import re
import site
import sys
from collections.abc import Iterable
from pathlib import Path

from testronaut_llm.providers import litellm_data
from testronaut_llm.support.installed import version

TESTED_LITELLM = "1.110.2"
"""The newest release that the tests have passed with: the locked one."""

BAD_LITELLM = ("1.82.7", "1.82.8")
KNOWN = ("distutils-precedence.pth", "_virtualenv.pth", "a1_coverage.pth", "pytest-cov.pth", "__editable__")
"""How the names begin of files that setuptools, virtualenv, coverage and editable installs bring."""


def litellm_version() -> str:
    """Returns the version that is installed, without importing it, or `not installed`."""
    return version("litellm") or "not installed"


def warnings(folders: Iterable[str] | None = None) -> list[str]:
    """Returns what to look at in `folders` (this environment's), a sentence each; nothing on a clean machine."""
    found = []
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
    for folder in folders if folders is not None else _folders():
        found += [
            f"{file} runs code at every start of Python; if you do not know it, read it"
            for file in sorted(Path(folder).glob("*.pth"))
            if not file.name.startswith(KNOWN) and _runs_code(file)
        ]
    return found


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


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
