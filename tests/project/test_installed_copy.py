"""The built wheel works in a separate environment."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from doc_blocks import blocks
from source_tree import ROOT

import testronaut_llm

PAGE = ROOT / "docs" / "how-to" / "test-your-code.md"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the built wheel and the libraries of this one."""
    place = tmp_path_factory.mktemp("installed")
    build = ["-m", "build", "--no-isolation", "--outdir", str(place / "dist"), str(ROOT)]
    subprocess.run([sys.executable, *build], check=True, capture_output=True, timeout=100)
    (wheel,) = (place / "dist").glob("*.whl")
    venv.create(place / "env", symlinks=True)
    python = place / "env" / "bin" / "python"
    pip = ["-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    subprocess.run([sys.executable, *pip], check=True, capture_output=True, timeout=100)
    (site,) = (place / "env" / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "env" / "bin"


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Runs a program of that environment in an empty folder, with a clean HOME and no key."""
    (tmp_path / "home").mkdir()
    (tmp_path / "project").mkdir()

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(installed / program), *arguments],
            cwd=tmp_path / "project",
            env={"PATH": str(installed), "HOME": str(tmp_path / "home"), "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


def test_the_command_works(run: Run, installed: Path) -> None:
    """The command prints its version, writes a file and reads it, with the code of the wheel."""
    where = run("python", "-c", "import testronaut_llm; print(testronaut_llm.__file__)")
    assert where.stdout.startswith(str(installed.parent)), where.stderr
    version = run("testronaut-llm", "--version")
    assert testronaut_llm.__version__ in version.stdout, version.stderr
    written = run("testronaut-llm", "init")
    assert written.returncode == 0, written.stderr
    shown = run("testronaut-llm", "config", "show")
    assert (shown.returncode, "tasks:" in shown.stdout) == (0, True), shown.stderr
    unready = run("testronaut-llm", "run", "cli_analysis", "Explain `ls`.")
    assert unready.returncode != 0
    assert "Traceback" not in unready.stderr


def test_the_plugin_is_found(run: Run, tmp_path: Path) -> None:
    """The page's first tests pass with only pytest and the package installed."""
    code, by_rule, _ = (one.text for one in blocks("python", PAGE))
    (settings,), (ini,) = blocks("yaml", PAGE), blocks("ini", PAGE)
    files = {"explain.py": code, "test_by_rule.py": by_rule, "llm.yaml": settings.text, "pytest.ini": ini.text}
    for name, text in files.items():
        (tmp_path / "project" / name).write_text(text)
    done = run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert (done.returncode, "3 passed" in done.stdout) == (0, True), done.stdout + done.stderr
