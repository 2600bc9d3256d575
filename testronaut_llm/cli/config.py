"""`config`: show and edit llm.yaml; `trust`: let a file that came from elsewhere use keys and commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile
from testronaut_llm.errors import ConfigError

group = typer.Typer(name="config", no_args_is_help=True, help="Show and edit llm.yaml.")


@group.command("show")
def show(
    key: Annotated[str | None, typer.Argument(help="A dotted key, such as tasks.cli_analysis.models.")] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show the configuration in force, defaults included, without secrets."""
    import yaml

    from testronaut_llm.config_source import ConfigSource

    source = ConfigSource.find(config)
    value = screen.plain(source.current().model_dump(mode="json", exclude_none=True))
    for part in key.split(".") if key else ():
        if not isinstance(value, dict) or part not in value:
            known = ", ".join(value) if isinstance(value, dict) else "nothing below it"
            raise ConfigError(f"no {part!r} in {key}; there is: {known}")
        value = value[part]
    screen.note(f"from {source.path or 'the packaged default'}")
    if as_json:
        screen.out_json(value)
    else:
        screen.out(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip().removesuffix("\n..."))


@group.command("set")
def set_(
    key: Annotated[str, typer.Argument(help="A dotted key, such as tasks.cli_analysis.models.")],
    value: Annotated[str, typer.Argument(help="Its value in YAML, such as '[qwen]' or 9.")],
    config: ConfigFile = None,
) -> None:
    """Set one value; comments and order stay, and a wrong value changes nothing."""
    from testronaut_llm.config_edit import set_value
    from testronaut_llm.config_file import find_config

    found = find_config(config)
    if found.path.parent == Path(__file__).resolve().parents[1]:
        raise ConfigError("there is no llm.yaml of yours yet; run: testronaut-llm init", file=str(found.path))
    set_value(found.path, key, value)
    screen.note(f"{found.path}: {key} is {value}")


def trust(file: Annotated[Path, typer.Argument(help="The file to trust, as it is now.")] = Path("llm.yaml")) -> None:
    """Let an llm.yaml that came from elsewhere run its commands and use your keys. Read it first."""
    from testronaut_llm import trust as trusted
    from testronaut_llm.config_file import load_config

    load_config(file)
    screen.note(f"trusted until it changes: {trusted.trust(file)}")
