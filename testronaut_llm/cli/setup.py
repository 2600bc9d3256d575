"""`init`: a commented llm.yaml for what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from testronaut_llm.cli import screen
from testronaut_llm.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("init")(init)


def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("llm.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented llm.yaml, and say which of its models are ready on this machine."""
    from testronaut_llm.atomic_file import write_atomically
    from testronaut_llm.config_file import load_config
    from testronaut_llm.config_schema import schema_line
    from testronaut_llm.provider_registry import readiness
    from testronaut_llm.trust import trust

    if file.exists() and not force:
        raise ConfigError(f"{file} is there already; edit it, or replace it with --force", file=str(file))
    packaged = Path(__file__).resolve().parents[1] / "llm.yaml"
    _, _, rest = packaged.read_text("utf-8").partition("\n")
    write_atomically(file, f"{schema_line()}\n{rest}", mode=0o644)
    trust(file)
    settings = load_config(file)
    screen.note(f"wrote {file}")
    for alias, model in settings.models.items():
        found = readiness(model)
        screen.note(f"  {alias} ({model.model}): {'ready' if found.ready else f'{found.missing}; {found.mend}'}")
    screen.note('next: testronaut-llm check, then testronaut-llm run cli_analysis "Explain `ls -la`"')
