"""Type checkers know the types of programs that use the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import ROOT

EXAMPLES = ROOT / "tests" / "support" / "data" / "typing_examples.py"


def _says(*command: str, folder: Path) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it would be slow
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return f"{done.stdout}{done.stderr}" if done.returncode else ""


@pytest.mark.timeout(300)
def test_mypy_knows_the_type_of_each_result(tmp_path: Path) -> None:
    """Results, messages and callbacks have the types of the examples, and the wrong ones are errors."""
    settings = tmp_path / "mypy.ini"
    settings.write_text(f"[mypy]\nmypy_path = {ROOT}\nstrict = True\ncache_dir = {ROOT}/.cache/typing\n")
    assert not _says(sys.executable, "-m", "mypy", "--config-file", str(settings), str(EXAMPLES), folder=tmp_path)


@pytest.mark.timeout(300)
@pytest.mark.skipif(not shutil.which("pyright"), reason="pyright is not installed")
def test_pyright_knows_the_type_of_each_result(tmp_path: Path) -> None:
    """Pyright finds no error in the same examples."""
    shutil.copy(EXAMPLES, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    assert not _says("pyright", "--pythonpath", sys.executable, EXAMPLES.name, folder=tmp_path)
