"""`init`, `config`, `trust` and `export`: write llm.yaml, show and edit it, trust it, convert it."""

import functools
import json
import math
import os
import re
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile, write_file
from testronaut_llm.errors import ConfigError, LLMError
from testronaut_llm.support.text import visible

group = typer.Typer(name="config", no_args_is_help=True, help="Show and edit llm.yaml.")
export = typer.Typer(name="export", no_args_is_help=True, help="Convert llm.yaml for another program.")

_KEY = "A dotted key, such as tasks.cli_analysis.models."
_PROXY_HEAD = """\
# For the LiteLLM proxy, made from llm.yaml by `testronaut-llm export litellm-proxy`:
#   pip install 'litellm[proxy]' && litellm --config THIS_FILE --port 4000
# Keys are read from the variables named after os.environ/; callers send LITELLM_MASTER_KEY.
#
# With LITELLM_PROXY_API_BASE and LITELLM_PROXY_API_KEY set, these rows of llm.yaml go through it:
"""


def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("llm.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented llm.yaml, and list which of its models are ready on this machine."""
    from testronaut_llm.config.source import PACKAGED, SCHEMA_FILE, FoundConfig, load_config, parse_config
    from testronaut_llm.config.trust import trust as record
    from testronaut_llm.local.readiness import readiness

    if os.path.exists(file) and not force:
        raise ConfigError(f"{file} exists already; edit it, or replace it with --force", file=str(file))
    text = PACKAGED.read_text("utf-8").partition("\n")[2]
    chat, vectors = _of_ollama()
    rows = "".join(f"  {name}: {{model: {json.dumps(it)}, quality: 5}}\n" for name, it in (chat | vectors).items())
    if chat:  # the tasks name the largest that fits
        text = re.sub(r"\bqwen\b(?=[,\]])", next(iter(chat)), re.sub(r"(?m)^  qwen: .*\n", "", text))
    if vectors:
        text = text.replace("[openai/text-embedding", f"[{', '.join(vectors)}, openai/text-embedding")
    text = text.replace("models:\n", f"models:\n{rows}", 1)
    config = parse_config(text, FoundConfig(path=PACKAGED, how="argument"))
    found = {alias: readiness(model) for alias, model in config.models.items()}
    about = {alias: "ready" if one.ready else f"{one.missing}; {one.fix}" for alias, one in found.items()}
    lines = (f"{alias} ({config.models[alias].model}): {state}" for alias, state in about.items())
    states = "".join(f"#   {visible(' '.join(line.split()))}\n" for line in lines)
    head = f"# yaml-language-server: $schema=./{SCHEMA_FILE.name}\n#\n"
    head += f"# On this machine, when this file was written (for now, run: testronaut-llm check):\n{states}"
    write_file(file, head + text)
    # The schema is written next to it: the file may be committed, so it names no path of this machine.
    write_file(file.with_name(SCHEMA_FILE.name), SCHEMA_FILE.read_text("utf-8"))
    load_config(file)
    record(file)
    screen.note(f"models of llm.yaml:\n{states.replace('#', ' ').rstrip()}")
    screen.note("next: testronaut-llm check, then testronaut-llm run cli_analysis 'Explain ls -la'")


def _of_ollama() -> tuple[dict[str, str], dict[str, str]]:
    """Returns the chat and the embedding models of the usual server that fit into memory, by alias, largest first."""
    from testronaut_llm.local.machine import OVERHEAD, memory
    from testronaut_llm.local.ollama_provider import OllamaServer, full_name
    from testronaut_llm.support.text import is_loopback

    chat: dict[str, str] = {}
    vectors: dict[str, str] = {}
    with suppress(LLMError), OllamaServer.of() as server:
        most = memory() - OVERHEAD if is_loopback(server.url) else math.inf
        for one in sorted(server.models(), key=lambda model: -model.size):
            # On an older server only the name shows that another host answers.
            if one.size > most or one.remote_host or one.name.endswith(("-cloud", ":cloud")):
                continue
            abilities = server.abilities(one)
            alias = "ollama-" + re.sub(r"[^a-z0-9.]+", "-", full_name(one.name).rpartition("/")[2])
            while alias in chat or alias in vectors:
                alias += "-2"
            if "embedding" in abilities or (not abilities and "embed" in one.name):
                vectors[alias] = f"ollama/{one.name}"
            elif not abilities or "completion" in abilities:
                chat[alias] = f"ollama/{one.name}"
    return chat, vectors


@group.command("show")
def show(
    key: Annotated[str | None, typer.Argument(help=_KEY)] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show the configuration with its defaults, without secrets."""
    import yaml

    from testronaut_llm.config.source import ConfigSource
    from testronaut_llm.config.yaml_text import value_at

    source = ConfigSource.find(config)
    value: Any = value_at(source.current().model_dump(mode="json"), key or "")
    screen.note(f"from {source.path or 'the packaged default'}")
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip().removesuffix("\n...")
    screen.out_json(value) if as_json else screen.out(text)


@group.command("set", context_settings={"ignore_unknown_options": True})  # so that -1 is a value
def set_(
    key: Annotated[str, typer.Argument(help=_KEY)],
    value: Annotated[str, typer.Argument(help="Its value in YAML, such as '[qwen]' or 9.")],
    config: ConfigFile = None,
) -> None:
    """Replace one value in the file. Comments and order stay; an invalid value is an error and changes nothing."""
    from testronaut_llm.config.source import PACKAGED, find_config, set_value

    found = find_config(config)
    if found.path == PACKAGED:
        raise ConfigError("there is no llm.yaml yet; run: testronaut-llm init", file=str(found.path))
    set_value(found.path, key, value)
    screen.note(f"{found.path}: {key} is {value}")


def trust(
    file: Annotated[Path | None, typer.Argument(help="The file to trust (default: the one in use).")] = None,
) -> None:
    """Allow an llm.yaml from elsewhere to run its commands and use your keys. Read it first."""
    from testronaut_llm.config import trust as trusted
    from testronaut_llm.config.source import find_config, load_config

    file = file or find_config().path
    load_config(file)
    screen.note(f"trusted until it changes: {trusted.trust(file)}")


@export.callback()
def _group_of_one() -> None:
    """Does nothing: without it, Typer drops the command's name in a group of one."""


@export.command("litellm-proxy")
def litellm_proxy(
    out: Annotated[Path | None, typer.Option(help="Write to this file (default: stdout).")] = None,
    redis: Annotated[bool, typer.Option("--redis", help="Share answers and counters through REDIS_URL.")] = False,
    config: ConfigFile = None,
) -> None:
    """Print a configuration of the LiteLLM proxy: models, fallbacks, limits, budget. No key is written.

    Fields without an equivalent in the proxy stay in llm.yaml; stderr lists them.
    """
    import yaml

    from testronaut_llm.config.draft import MODEL_VARIABLE
    from testronaut_llm.config.source import FoundConfig, find_config, parse_config, read_text
    from testronaut_llm.config.yaml_text import read_yaml
    from testronaut_llm.proxy.export import proxy_export

    if os.environ.get(MODEL_VARIABLE):
        raise ConfigError(f"{MODEL_VARIABLE} puts one model into every task; run: unset {MODEL_VARIABLE}")
    found = find_config(config)
    text = read_text(found.path)
    allowed = FoundConfig(path=found.path, how="argument")  # an export sends nothing, so the file need not be trusted
    made = proxy_export(parse_config(text, allowed), read_yaml(text).data, redis=redis)
    dump = functools.partial(yaml.safe_dump, sort_keys=False, width=1000)  # escapes all that is not ASCII
    lines = "".join(f"{json.dumps(name)}: {dump(row, default_flow_style=True)}" for name, row in made.rows.items())
    # Each line of the rows is a comment, even if a name holds line breaks.
    result = f"{_PROXY_HEAD}{textwrap.indent(lines, '#   ')}{dump(made.document)}"
    if out is None:
        screen.out(result, end="")
    else:
        write_file(out, result)
    screen.note(f"from {found.path}; what stays in llm.yaml, or needs attention:")
    for line in made.stays:
        screen.note(f"  {line}")
