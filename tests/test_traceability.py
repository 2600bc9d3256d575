"""docs/phase-008.md says of each item of the plan what does it and what proves it; both have to be there."""

from __future__ import annotations

import ast
import re

import pytest
from source_tree import PACKAGE, ROOT

PAGE = (ROOT / "docs" / "phase-008.md").read_text("utf-8")
DONE = PAGE.partition("\n## Core")[2]
MODULE = re.compile(r"`((?!test_)[a-z_/]+\.py)`")
ROWS = [line for line in DONE.splitlines() if line.startswith("| ") and not line.startswith(("| item", "| ---"))]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_each_item_names_modules_and_tests_that_exist(row: str) -> None:
    """A module that moved, or a test that was renamed, turns this red."""
    module, proof = row.split("|")[2:4]
    modules = MODULE.findall(module)
    tests = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", proof)
    assert modules
    assert tests
    assert [name for name in modules if not (PACKAGE / name).is_file()] == []
    assert [test for test in tests if not _exists(*test)] == []


def _exists(file: str, name: str) -> bool:
    path = ROOT / "tests" / file
    if not path.is_file():
        return False
    defined = {
        node.name
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return not name or name in defined
