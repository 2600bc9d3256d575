"""The page on testing one's own code: its files, as a project of their own, recorded once and replayed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import blocks
from fixtures_local import stored
from source_tree import ROOT

PAGE = ROOT / "docs" / "how-to" / "test-your-code.md"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The page's files; a model of random weights, which needs no download, stands in for the small one."""
    code, by_rule, recorded = (one.text for one in blocks("python", PAGE))
    (settings,), (ini,) = blocks("yaml", PAGE), blocks("ini", PAGE)
    place = tmp_path / "project"
    place.mkdir()
    for name, text in {
        "explain.py": code,
        "test_by_rule.py": by_rule,
        "test_recorded.py": recorded,
        "llm.yaml": settings.text.replace("smollm2-135m", "tiny-random"),
        "pytest.ini": ini.text,
    }.items():
        (place / name).write_text(text)
    return place


def run(project: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest there with the plugin and no key."""
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    plugins = ["-p", "testronaut_llm.testing.plugin"] if not _is_installed() else []
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *plugins, *options],
        cwd=project,
        env={**clean, "PYTHONPATH": f"{ROOT}:{project}", **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def _is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(one.value == "testronaut_llm.testing.plugin" for one in entry_points(group="pytest11"))


def test_its_examples_hold(project: Path, tmp_path: Path, tiny_gguf: Path) -> None:
    """By rule at once; recorded from a real llama.cpp, then without it; and without a recording they fail closed."""
    from testronaut_llm.local.model_store import ModelStore

    bare = run(project)
    assert "3 passed" in bare.stdout
    assert "--llm-record" in bare.stdout
    assert bare.returncode == 1
    stored(ModelStore(), tiny_gguf)
    made = run(project, "--llm-record=once")
    assert made.returncode == 0, made.stdout
    (cassette,) = (project / "cassettes").rglob("*.yaml")
    assert cassette.relative_to(project).as_posix() in PAGE.read_text("utf-8")
    replayed = run(project, TESTRONAUT_LLM_HOME=str(tmp_path / "nothing is here"))
    assert (replayed.returncode, "4 passed" in replayed.stdout) == (0, True), replayed.stdout
