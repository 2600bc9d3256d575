"""Writes the generated reference pages, or reports which of them are stale.

python scripts/generate_docs.py            write docs/reference/{llm-yaml,cli,errors,api}.md
python scripts/generate_docs.py --check    exit 1 if a page differs from what would be written
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from typer.main import get_command

from testronaut_llm import errors
from testronaut_llm.cli import app

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
MADE = "<!-- Made by scripts/generate_docs.py; run `make docs` after a change. -->\n"

PUBLIC_MODULES = {
    "llm_manager": "The manager",
    "options": "Options of a call",
    "records": "Values",
    "methods.streams": "Streams",
    "methods.classify": "Verdicts with a confidence",
    "methods.batch": "Estimates",
    "methods.compare": "Comparisons",
    "config.model_config": "Configuration in Python",
    "providers.provider": "A provider",
    "testing.fake": "Answers by rule",
}
_NOTHING = (None, False, "", (), [])
SECTIONS = {
    "": "The file",
    "ModelConfig": "A model: `models.<name>`",
    "PriceConfig": "`price`",
    "TaskConfig": "A task: `tasks.<name>`",
    "BudgetConfig": "`budget`",
    "CacheConfig": "`cache`",
    "LimitConfig": "`limits`",
    "LogConfig": "`log`",
}
INTERNAL = ("Endpoint", "Labels", "Record")
"""Classes of these modules that no caller gets."""


def llm_yaml_page() -> str:
    """Returns the reference of `llm.yaml`, made from the shipped JSON Schema."""
    schema = json.loads((ROOT / "testronaut_llm" / "llm.schema.json").read_text("utf-8"))
    parts = [
        "# llm.yaml\n",
        "Each key of the file, from the JSON Schema that editors complete and check it with. `${VAR}` and\n"
        "`${VAR:-default}` are filled from the environment; an unknown key is an error that names the closest one.\n",
    ]
    sections = {"": schema, **schema["$defs"]}
    order = [*(name for name in SECTIONS if name in sections), *(name for name in sections if name not in SECTIONS)]
    for name in order:
        section = sections[name]
        if "properties" in section:
            parts.append(f"## {SECTIONS.get(name, name)}\n\n{section.get('description', '')}\n")
            parts.append(_table(("key", "value", "default", "meaning"), _fields(section)))
    return "\n".join(parts)


def _fields(section: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    required = section.get("required", [])
    for key, value in section["properties"].items():
        default = "" if value.get("default") in (None, [], {}) else f"`{json.dumps(value['default'])}`"
        shown = "**required**" if key in required else default
        yield f"`{key}`", _kind(value), shown, value.get("description", "")


def _kind(value: dict[str, Any]) -> str:
    """Returns the allowed values: `cheapest` or `balanced`, whole number, list of text, a section."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{SECTIONS.get(name, name).rpartition(':')[2].strip()}](#{_anchor(SECTIONS.get(name, name))})"
    if "anyOf" in value:
        kinds = (_kind(option) for option in value["anyOf"] if not _unsaid(option))
        return " or ".join(dict.fromkeys(kinds))
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    if "enum" in value:
        return ", ".join(f"`{option if isinstance(option, str) else json.dumps(option)}`" for option in value["enum"])
    if value.get("type") == "array":
        return f"list of {_kind(value.get('items', {}))}"
    if isinstance(value.get("additionalProperties"), dict):
        return f"name: {_kind(value['additionalProperties'])}"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "yes or no", "object": "any"}
    return names.get(str(value.get("type")), "any") + _bounds(value)


def _unsaid(option: dict[str, Any]) -> bool:
    """True for null (any key may be missing) and `${VAR}` (allowed for any key), which the page leaves out."""
    return option.get("type") == "null" or option.get("pattern") == r"\$\{"


def _bounds(value: dict[str, Any]) -> str:
    least, most = value.get("minimum"), value.get("maximum")
    if least is not None and most is not None:
        return f", {least} to {most}"
    if "exclusiveMinimum" in value:
        return f" above {value['exclusiveMinimum']}"
    return f" from {least}" if least is not None else ""


def cli_page() -> str:
    """Returns the reference of the command line, made from the Typer application."""
    program = get_command(app)
    parts = ["# Command line\n", f"{program.epilog}\n"]
    for path, command in _commands(program, ("testronaut-llm",)):
        level = "##" if len(path) <= 2 else "###"
        parts.append(f"{level} {' '.join(path)}\n\n{inspect.cleandoc(command.help or '')}\n")
        rows = [_parameter(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
        if rows:
            parts.append(_table(("parameter", "meaning", "default"), rows))
    return "\n".join(parts)


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from _commands(child, (*path, name))


def _parameter(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
    else:
        name = ", ".join([*parameter.opts, *parameter.secondary_opts])
    default = (
        "**required**" if parameter.required else "" if parameter.default in _NOTHING else f"`{parameter.default}`"
    )
    return f"`{name}`", parameter.help or "", default


def errors_page() -> str:
    """Returns the tree of errors from the docstring of their module, and a table of them."""
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.LLMError)]
    rows = [(f"`{kind.__name__}`", f"`{kind.code}`", kind.verdict.name, _first_line(kind)) for kind in kinds]
    return "\n".join(
        [
            "# Errors\n",
            inspect.cleandoc(errors.__doc__ or "").replace("::", "", 1) + "\n",
            "RETRY asks the same model again, NEXT goes on to the next one, STOP is raised at once. The code is what\n"
            "a task's `fallback_on` names.\n",
            _table(("error", "code", "verdict", "meaning"), rows),
            "Each carries `model`, `provider`, `status`, `retry_after`, `request_id`, `code` and `attempts`.\n",
        ]
    )


def api_page() -> str:
    """Returns the page that mkdocstrings fills with the docstrings of the public classes."""
    parts = ["# Python API\n"]
    for name, title in PUBLIC_MODULES.items():
        module = import_module(f"testronaut_llm.{name}")
        classes = [
            kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == module.__name__
        ]
        members = ", ".join(
            kind.__name__ for kind in classes if kind.__name__ not in INTERNAL and kind.__name__[0] != "_"
        )
        parts.append(f"## {title}\n\n::: {module.__name__}\n    options: {{members: [{members}]}}\n")
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "llm-yaml.md": llm_yaml_page,
    "cli.md": cli_page,
    "errors.md": errors_page,
    "api.md": api_page,
}


def main(arguments: list[str]) -> int:
    """Writes or checks all pages; returns the exit code."""
    stale = []
    for name, made in PAGES.items():
        page = REFERENCE / name
        text = MADE + made().rstrip() + "\n"
        if page.exists() and page.read_text("utf-8") == text:
            continue
        if "--check" in arguments:
            stale.append(name)
        else:
            page.write_text(text, "utf-8")
    if stale:
        print(f"docs: stale: {', '.join(stale)}; run `make docs` and commit the result", file=sys.stderr)
    return 1 if stale else 0


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _first_line(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]


def _anchor(title: str) -> str:
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
