"""`export`: the same llm.yaml for another program."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from testronaut_llm.cli import screen
from testronaut_llm.cli.options import ConfigFile, writing
from testronaut_llm.errors import ConfigError

if TYPE_CHECKING:
    from testronaut_llm.proxy.export import ProxyExport

group = typer.Typer(name="export", no_args_is_help=True, help="Write llm.yaml in another program's words.")

_HEAD = """\
# For the LiteLLM proxy, made from llm.yaml by `testronaut-llm export litellm-proxy`:
#   pip install 'litellm[proxy]' && litellm --config THIS_FILE --port 4000
# Keys are read from the variables named after os.environ/; LITELLM_MASTER_KEY is the one that callers show.
#
# With LITELLM_PROXY_API_BASE and LITELLM_PROXY_API_KEY set, these rows of llm.yaml go through it:
"""


@group.callback()
def export() -> None:
    """Keeps the command's name: a group of one would lose it."""


@group.command("litellm-proxy")
def litellm_proxy(
    out: Annotated[Path | None, typer.Option(help="Write to this file (default: stdout).")] = None,
    redis: Annotated[bool, typer.Option("--redis", help="Share answers and counters through REDIS_URL.")] = False,
    config: ConfigFile = None,
) -> None:
    """Print a configuration of the LiteLLM proxy: models, fallbacks, limits, budget. No key is written.

    What the proxy has no place for stays in llm.yaml, and is said line by line on stderr.
    """
    from testronaut_llm.config.draft import MODEL_VARIABLE
    from testronaut_llm.config.file import FoundConfig, find_config, parse_config, read_text
    from testronaut_llm.config.yaml_reader import read_yaml
    from testronaut_llm.proxy.export import proxy_export
    from testronaut_llm.support.paths import write_atomically

    if os.environ.get(MODEL_VARIABLE):
        raise ConfigError(f"{MODEL_VARIABLE} is set, and puts one model into every task; run: unset {MODEL_VARIABLE}")
    found = find_config(config)
    text = read_text(found.path)
    whole = FoundConfig(path=found.path, how="argument")  # an export sends nothing, so no file has to be trusted first
    made = proxy_export(parse_config(text, whole), read_yaml(text).data, redis=redis)
    if out is None:
        screen.out(_in_yaml(made).rstrip("\n"))
    else:
        with writing(out):
            write_atomically(out, _in_yaml(made))
    screen.note(f"from {found.path}; what stays in llm.yaml, or needs a look:")
    for line in made.stays:
        screen.note(f"  {line}")


def _in_yaml(made: ProxyExport) -> str:
    import yaml

    dump = functools.partial(yaml.safe_dump, sort_keys=False, allow_unicode=True)
    flow = functools.partial(dump, default_flow_style=True, width=1000)
    rows = "".join(f"#   {name}: {flow(row)}" for name, row in made.rows.items())
    return f"{_HEAD}{rows}{dump(made.document)}"
