"""The package as text, for tests of its architecture: modules, their imports, their functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "testronaut_llm"
Function = ast.FunctionDef | ast.AsyncFunctionDef
# An error holds attempts, which hold errors; the checks of `models verify` use the manager that they are given.
UP_FOR_TYPES = {("errors", "records"), ("local.verify", "llm_manager")}


class Import(NamedTuple):
    name: str
    line: int
    at_top: bool  # True if importing the file imports it, too
    for_types: bool = False  # seen by type checkers only


class Module:
    """One file of the package; `name` is dotted and without the package's own name."""

    def __init__(self, path: Path) -> None:
        self.name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        self.text = path.read_text("utf-8")
        self.tree = ast.parse(self.text)
        found = list(_imports(self.tree, at_top=True))
        self.imports = [one for one in found if not one.for_types]
        self.own_imports = [one._replace(name=own) for one in found if (own := _own(one.name)) is not None]
        self.functions = [node for node in ast.walk(self.tree) if isinstance(node, Function)]


@cache
def modules() -> list[Module]:
    return [Module(path) for path in sorted(PACKAGE.rglob("*.py"))]


def _own(name: str) -> str | None:
    head, _, rest = name.partition(".")
    return rest if head == PACKAGE.name else None


def _imports(node: ast.AST, *, at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (one._replace(for_types=True) for one in _imports(child, at_top=False))
        elif isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            # `from package import name`: the name may be a module, and counts as one where it is.
            names = (f"{child.module}.{alias.name}" for alias in child.names)
            yield from (Import(_existing(name, child.module or ""), child.lineno, at_top) for name in names)
        else:
            inside = isinstance(child, Function | ast.Lambda)
            yield from _imports(child, at_top=at_top and not inside)


def _existing(name: str, parent: str) -> str:
    path = ROOT.joinpath(*name.split("."))
    return name if path.is_dir() or path.with_suffix(".py").is_file() else parent
