"""The package as users get it: the built wheel works in a separate environment, and type checkers know its types."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest
from manager_kit import program
from source_tree import ROOT

import testronaut_llm

EXAMPLES = ROOT / "tests" / "support" / "data" / "typing_examples.py"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The `bin` folder of an environment with the built wheel and the libraries of this one."""
    built = program("-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT)
    assert built.returncode == 0, built.stdout
    (wheel,), (sources,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert (ROOT / "llm.yaml").resolve() == ROOT / "testronaut_llm" / "llm.yaml"
    with tarfile.open(sources) as packed:
        assert sources.name.replace(".tar.gz", "/llm.yaml") in packed.getnames()
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = program("-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", "--no-compile", wheel)
    assert pip.returncode == 0, pip.stderr
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    assert {one.name.partition("-")[0] for one in site.iterdir()} == {"testronaut_llm"}
    for name in ("llm.yaml", "llm.schema.json", "py.typed", "local/catalogue.json"):
        assert (site / "testronaut_llm" / name).is_file()
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_command_and_plugin_of_the_wheel_work(installed: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "project").mkdir()
    env = {"PATH": str(installed), "HOME": str(tmp_path), "LANG": "C.UTF-8"}

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(installed / program), *arguments]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False)

    where = run("python", "-c", "import testronaut_llm; print(testronaut_llm.__file__)")
    assert where.stdout.startswith(str(installed.parent)), where.stderr
    assert testronaut_llm.__version__ in run("testronaut-llm", "--version").stdout
    assert run("testronaut-llm", "init").returncode == 0
    assert "tasks:" in run("testronaut-llm", "config", "show").stdout
    unready = run("testronaut-llm", "run", "cli_analysis", "Explain `ls`.")
    assert (unready.returncode, "Traceback" in unready.stderr) == (2, False), unready.stderr
    assert "--llm-record" in run("python", "-m", "pytest", "--help").stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_type_checker_knows_the_type_of_each_result(checker: str, tmp_path: Path) -> None:
    if checker == "pyright" and not shutil.which("pyright"):
        pytest.skip("pyright is not installed")
    shutil.copy(EXAMPLES, tmp_path)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nmypy_path={ROOT}\nstrict=True\ncache_dir={ROOT}/.cache/typing\n")
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    command = [sys.executable, "-m", "mypy"] if checker == "mypy" else ["pyright", "--pythonpath", sys.executable]
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it would be slow
    done = subprocess.run([*command, EXAMPLES.name], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
