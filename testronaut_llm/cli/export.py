"""`export`: the same configuration in another program's words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from testronaut_llm.cli import screen
from testronaut_llm.cli.options import ConfigFile
from testronaut_llm.errors import ConfigError

group = typer.Typer(no_args_is_help=True, help="Write llm.yaml in the words of another program.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(group, name="export")


@group.command("litellm-proxy")
def litellm_proxy(
    out: Annotated[Path | None, typer.Option(help="Write it to this file (default: print it).")] = None,
    config: ConfigFile = None,
) -> None:
    """Write llm.yaml as a configuration for the LiteLLM proxy; what stays here is said on stderr. No key is written.

    Example: testronaut-llm export litellm-proxy --out proxy.yaml
    """
    import yaml

    from testronaut_llm.atomic_file import write_atomically
    from testronaut_llm.config_source import ConfigSource
    from testronaut_llm.proxy_export import proxy_config

    made, notes = proxy_config(ConfigSource.find(config).current())
    text = yaml.safe_dump(made, sort_keys=False, allow_unicode=True)
    for one in notes:
        screen.note(f"stays here: {one}")
    if out is None:
        screen.out(text.rstrip("\n"))
        return
    try:
        write_atomically(out, text)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}", file=str(out)) from None
    screen.note(f"wrote {out}; start it with: litellm --config {out}")
