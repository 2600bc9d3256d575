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
SETTINGS = f"[mypy]\nmypy_path = {ROOT}\nstrict = True\ncache_dir = {ROOT}/.cache/typing\n"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_type_checker_knows_the_type_of_each_result(checker: str, tmp_path: Path) -> None:
    if checker == "pyright" and not shutil.which("pyright"):
        pytest.skip("pyright is not installed")
    shutil.copy(EXAMPLES, tmp_path)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    command = [sys.executable, "-m", "mypy"] if checker == "mypy" else ["pyright", "--pythonpath", sys.executable]
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it would be slow
    done = subprocess.run([*command, EXAMPLES.name], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
