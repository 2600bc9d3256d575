"""The rules that keep the package small and its imports in one direction."""

from __future__ import annotations

import ast
import fnmatch
import graphlib
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from manager_kit import program
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from source_tree import PACKAGE, ROOT, UP_FOR_TYPES, Module, modules

import testronaut_llm
from testronaut_llm.cli import check

# From the ground up. A module may import from its own rung and from those below, never from above: not late, and not
# for types. `telemetry` is on two rungs.
LADDER = (
    ("errors", "loop", "support", "support.*", "telemetry", "telemetry.log", "telemetry.redaction", "masking"),
    ("config", "config.*"),
    ("providers", "providers.*"),
    ("schema", "schema.*", "limits", "limits.*"),
    ("records",),
    ("local", "local.*", "money", "money.*", "telemetry.telemetry"),
    ("cache", "cache.*", "routing", "routing.*", "gateway", "gateway.*"),
    ("prompts", "options", "proxy"),
    ("services", "attempt", "call"),
    ("methods", "methods.*"),
    ("engine", "llm_manager", ""),
    ("cli", "cli.*", "testing", "testing.*"),
)

# Slow, or with side effects: never imported at a module's top, except in modules that only wrap them.
LATE = ("litellm", "tokencost", "tiktoken", "openai", "anthropic", "azure", "vcr", "xllamacpp", "typer", "rich")
AT_HOME = {"typer": ("cli",), "rich": ("cli",), "vcr": ("testing",)}

# Neither these nor what they bring may be loaded by `import testronaut_llm` and touching each public name.
HEAVY = {*LATE, "httpx", "httpx2", "aiohttp", "requests", "diskcache", "filelock", "jsonschema", "psutil", "pytest"}
HEAVY -= {"rich"}  # structlog imports it where it is installed

# Their constructors hand on what they do not name: the facts of LLMError, and the settings of vcrpy's own class.
HANDS_ON = ("errors", "testing.cassettes")
SPEAKS = ("cli", "cli.*", "local.embedded_child")  # and a child process whose stdout is a pipe to its parent

LINES_OF_A_FILE, LINES_OF_A_FUNCTION, LINES_OF_THE_PACKAGE = 300, 40, 18_795


def every_module(check: Callable[[Module], None]) -> Callable[[], None]:
    def test() -> None:
        faults = []
        for module in modules():
            try:
                check(module)
            except AssertionError as error:
                faults.append(f"{module.name or '__init__'}: {error}")
        assert not faults, "\n".join(faults)

    return test


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def rung(name: str) -> int:
    found = [number for number, patterns in enumerate(LADDER) if matches(name, patterns)]
    assert found, f"{name} stands on no rung: add it to LADDER in tests/project/test_architecture.py"
    return found[0]


def room(name: str) -> str:
    """A folder of the package or a module beside it; `telemetry` is two, since it is on two rungs."""
    return name if name.startswith("telemetry.") else name.partition(".")[0]


@every_module
def test_imports_go_one_way(module: Module) -> None:
    up = [one for one in module.own_imports if rung(one.name) > rung(module.name)]
    assert not [one for one in up if not (one.for_types and (module.name, one.name) in UP_FOR_TYPES)]


def test_no_two_modules_or_rooms_need_each_other() -> None:
    """Types count between rooms only: two modules of one room may speak of each other's classes."""
    modules_need, rooms_need = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for module in modules():
        for one in module.own_imports:
            if not one.for_types:
                modules_need[module.name].add(one.name)
            if room(module.name) != room(one.name) and (module.name, one.name) not in UP_FOR_TYPES:
                rooms_need[room(module.name)].add(room(one.name))
    for needs in (modules_need, rooms_need):
        assert set(graphlib.TopologicalSorter(needs).static_order()) >= {"call", "records"}


@every_module
def test_only_the_gateway_imports_litellm(module: Module) -> None:
    if module.name != "gateway.gateway":
        assert not [f"line {found.line}" for found in module.imports if found.name.split(".")[0] == "litellm"]
        assert not re.search(r"import(_module|__)\(\s*[\"']litellm", module.text)


@every_module
def test_slow_packages_are_imported_late(module: Module) -> None:
    for found in module.imports:
        head = found.name.split(".")[0]
        if head in LATE and module.name.split(".")[0] not in AT_HOME.get(head, ()):
            assert not found.at_top, f"line {found.line}: {found.name}"


WATCH = """
import os, sys
seen = []
def watch(event, args):
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event.startswith(("socket.", "subprocess.", "os.mkdir", "os.rename", "_thread.start")):
        seen.append(event)
    elif event == "open" and isinstance(args[2], int) and args[2] & writes:
        seen.append(f"open {args[0]}")
sys.addaudithook(watch)
before = dict(os.environ)
import testronaut_llm
for name in getattr(testronaut_llm, "__all__", ()):
    getattr(testronaut_llm, name)
seen.append("environment" if dict(os.environ) != before else "")
heavy = sorted({name.split(".")[0] for name in sys.modules} & set(sys.argv[1:]))
sys.stderr.write(" ".join(filter(None, seen)) + "|" + " ".join(heavy))
"""


def test_importing_is_light(tmp_path: Path) -> None:
    done = program("-B", "-c", WATCH, *HEAVY, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    acts, _, heavy = done.stderr.partition("|")
    assert (acts, heavy, done.stdout, done.returncode) == ("", "", "", 0)
    assert list(tmp_path.iterdir()) == []


@every_module
def test_files_and_functions_stay_small(module: Module) -> None:
    assert module.text.count("\n") <= LINES_OF_A_FILE
    for function in module.functions:
        body = function.body[1:] if ast.get_docstring(function) is not None else function.body
        length = (function.end_lineno or 0) - body[0].lineno + 1 if body else 0
        assert length <= LINES_OF_A_FUNCTION, function.name


def test_the_package_stays_small() -> None:
    lines = sum(module.text.count("\n") for module in modules())
    assert LINES_OF_THE_PACKAGE - 100 <= lines <= LINES_OF_THE_PACKAGE


@every_module
def test_every_module_has_a_docstring_and_only_the_command_line_prints(module: Module) -> None:
    assert not module.text.strip() or ast.get_docstring(module.tree)
    if not matches(module.name, SPEAKS):
        calls = [ast.unparse(node.func) for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
        assert not {"print", "sys.stdout.write"} & {*calls}


@every_module
def test_public_functions_name_their_arguments(module: Module) -> None:
    for function in module.functions:
        is_public = not re.match(r"_(?!_init|_call)", function.name)
        hands_on = module.name in HANDS_ON and function.name == "__init__"
        if is_public and not hands_on and (kwarg := function.args.kwarg) is not None:
            assert ast.unparse(kwarg.annotation or kwarg).startswith(("Unpack[", "P.kwargs")), function.name


def pins(lock: str) -> list[Requirement]:
    """The pinned packages of a lock file; one may be there twice, for different Pythons."""
    lines = (ROOT / "requirements" / lock).read_text("utf-8").splitlines()
    return [Requirement(line.rstrip("\\ ")) for line in lines if line and line[0] not in " #"]


FOR_THIS_PYTHON = [pin for pin in pins("dev.txt") if pin.marker is None or pin.marker.evaluate()]
LOCKED = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in FOR_THIS_PYTHON}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.mark.parametrize("lock", ["dev.txt", "pip.txt"])
def test_a_lock_has_hashes_and_names_no_host(lock: str) -> None:
    text = (ROOT / "requirements" / lock).read_text("utf-8")
    assert not re.search(r"://|--(?!hash=)|\.(com|org|io|net)\b|/(home|root|tmp|work|Users)\b", text)
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(lock)) > 0
    assert not [entry[:40] for entry in entries if "==" not in entry or "--hash=sha256:" not in entry]


def test_the_lock_holds_all_that_the_project_asks_for() -> None:
    asked = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    for wanted in map(Requirement, asked):
        assert wanted.specifier.contains(LOCKED[canonicalize_name(wanted.name)]), f"{wanted}: run `make lock`"


def test_the_malicious_releases_of_litellm_are_excluded() -> None:
    """The metadata excludes the releases that sent keys away; `check` warns of one newer than the locked one."""
    litellm = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "litellm")
    assert not {*litellm.specifier.filter(["1.82.7", "1.82.8"])}
    assert LOCKED["litellm"] == check.TESTED_LITELLM


def test_the_classifiers_name_the_pythons_that_are_tested() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    (tested,) = re.findall(r"^ +python: \[(.+)\]$", workflow, flags=re.MULTILINE)
    versions = re.findall(r"[\d.]+", tested)
    named = [line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if ":: Python :: 3." in line]
    assert named == versions
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert f"ON={versions[-1]}" in (ROOT / ".ci" / "run").read_text("utf-8")


# The extra that brings what a room needs beyond the dependencies; only `testing/` may import it at a module's top.
EXTRA_OF = {"testing": "testing", "telemetry": "otel", "providers": "azure", "local": "embedded"}
PACKAGES_OF = packages_distributions()
CORE = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}


def brought_by(name: str) -> set[str]:
    return {canonicalize_name(package) for package in PACKAGES_OF.get(name, [name])}


@every_module
def test_each_import_is_a_declared_dependency(module: Module) -> None:
    room = module.name.split(".")[0]
    lines = PROJECT["optional-dependencies"].get(EXTRA_OF.get(room), [])
    extra = {canonicalize_name(Requirement(line).name) for line in lines}
    for found in module.imports:
        head = found.name.split(".")[0]
        if head not in sys.stdlib_module_names and head != PACKAGE.name and not brought_by(head) & CORE:
            assert brought_by(head) & extra, f"line {found.line}: {found.name}"
            assert room == "testing" or not found.at_top, f"line {found.line}: {found.name}"


def test_each_declared_dependency_is_used() -> None:
    imported = {found.name.split(".")[0] for module in modules() for found in module.imports}
    assert set().union(*map(brought_by, imported)) >= CORE - {"tokencost"}  # which is read as data


def test_version_and_changelog_agree() -> None:
    newest, *_ = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    assert newest == PROJECT["version"] == testronaut_llm.__version__


def test_actions_are_pinned_by_digest() -> None:  # a tag can be moved
    used = re.findall(r"uses: (\S+)", "".join(one.read_text("utf-8") for one in ROOT.glob(".github/workflows/*.yml")))
    assert used
    assert not [one for one in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", one)]
