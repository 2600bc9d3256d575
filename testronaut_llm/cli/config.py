"""`init`, `config` and `trust`: write llm.yaml, show and edit it, let one that came from elsewhere use keys."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile
from testronaut_llm.errors import ConfigError, LLMError
from testronaut_llm.support.text import visible

_ASK = "run cli_analysis"
_ASK_EMBEDDED = "models pull embedded/smollm2-135m, then testronaut-llm run cli_analysis --model embedded"
if TYPE_CHECKING:
    from testronaut_llm.local.ollama_provider import OllamaModel

group = typer.Typer(name="config", no_args_is_help=True, help="Show and edit llm.yaml.")


def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("llm.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented llm.yaml, and say which of its models are ready on this machine."""
    from testronaut_llm.config.file import PACKAGED, FoundConfig, load_config, parse_config
    from testronaut_llm.config.schema import SCHEMA_FILE
    from testronaut_llm.config.trust import trust
    from testronaut_llm.providers.provider_registry import readiness
    from testronaut_llm.support.atomic_file import write_atomically

    if file.exists() and not force:
        raise ConfigError(f"{file} is there already; edit it, or replace it with --force", file=str(file))
    rest = _with_ollama(PACKAGED.read_text("utf-8").partition("\n")[2])
    config = parse_config(rest, FoundConfig(path=PACKAGED, how="argument"))
    found = {alias: readiness(model) for alias, model in config.models.items()}
    states = [
        f"{alias} ({config.models[alias].model}): {'ready' if one.ready else f'{one.missing}; {one.mend}'}"
        for alias, one in found.items()
    ]
    here = "".join(f"#   {visible(' '.join(line.split()))}\n" for line in states)
    machine = f"# On this machine, when this file was written (`testronaut-llm check` says how it is now):\n{here}"
    try:
        # Beside it, since no path of this machine belongs into a file that is committed.
        write_atomically(file.with_name(SCHEMA_FILE.name), SCHEMA_FILE.read_text("utf-8"), mode=0o644)
        write_atomically(file, f"# yaml-language-server: $schema=./{SCHEMA_FILE.name}\n#\n{machine}{rest}", mode=0o644)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}", file=str(file)) from None
    load_config(file)
    trust(file)
    screen.note(f"wrote {file}; on this machine:")
    screen.note(here.replace("#", " ").rstrip())
    task = config.tasks["cli_analysis"]
    able = any(found[name].ready and config.models[name].quality >= task.min_quality for name in task.models)
    screen.note(f'next: testronaut-llm check, then testronaut-llm {_ASK if able else _ASK_EMBEDDED} "Explain `ls -la`"')


def _is_remote(model: OllamaModel) -> bool:
    """True if another host answers for it; an older server says so by the name alone."""
    return bool(model.remote_host) or model.name.endswith(("-cloud", ":cloud"))


def _with_ollama(text: str) -> str:
    """Returns the packaged file with a row for each model of a running Ollama; its tasks name the best of them."""
    chat, vectors = _of_ollama()
    rows = "".join(
        f"  {alias}: {{model: {json.dumps(name)}, quality: 5}}\n" for alias, name in (chat | vectors).items()
    )
    if chat:
        text = re.sub(r"(?m)^  qwen: .*\n", "", text)
        text = re.sub(r"\bqwen\b(?=[,\]])", next(iter(chat)), text)
    if vectors:
        text = text.replace("[openai/text-embedding", f"[{', '.join(vectors)}, openai/text-embedding")
    return text.replace("models:\n", f"models:\n{rows}", 1)


def _of_ollama() -> tuple[dict[str, str], dict[str, str]]:
    """Returns the chat models that run on the usual server and fit, by alias, and those for vectors; largest first."""
    from testronaut_llm.local.machine import OVERHEAD, memory
    from testronaut_llm.local.ollama_provider import OllamaServer, full_name
    from testronaut_llm.support.hosts import is_loopback

    chat: dict[str, str] = {}
    vectors: dict[str, str] = {}
    with suppress(LLMError), OllamaServer.of() as server:
        most = memory() - OVERHEAD if is_loopback(server.url) else math.inf
        fitting = [one for one in server.models() if one.size <= most and not _is_remote(one)]
        for one in sorted(fitting, key=lambda model: -model.size):
            said = server.abilities(one)
            alias = "ollama-" + re.sub(r"[^a-z0-9.]+", "-", full_name(one.name).rpartition("/")[2])
            while alias in chat or alias in vectors:
                alias += "-2"
            if "embedding" in said or (not said and "embed" in one.name):
                vectors[alias] = f"ollama/{one.name}"
            elif not said or "completion" in said:
                chat[alias] = f"ollama/{one.name}"
    return chat, vectors


@group.command("show")
def show(
    key: Annotated[str | None, typer.Argument(help="A dotted key, such as tasks.cli_analysis.models.")] = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show the configuration in force, defaults included, without secrets."""
    import yaml

    from testronaut_llm.config.source import ConfigSource
    from testronaut_llm.config.splice import value_at

    source = ConfigSource.find(config)
    value: Any = value_at(source.current().model_dump(mode="json"), key or "")
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
    from testronaut_llm.config.edit import set_value
    from testronaut_llm.config.file import PACKAGED, find_config

    found = find_config(config)
    if found.path == PACKAGED:
        raise ConfigError("there is no llm.yaml of yours yet; run: testronaut-llm init", file=str(found.path))
    set_value(found.path, key, value)
    screen.note(f"{found.path}: {key} is {value}")


def trust(
    file: Annotated[
        Path | None, typer.Argument(help="The file to trust, as it is now (default: the one in use).")
    ] = None,
) -> None:
    """Let an llm.yaml that came from elsewhere run its commands and use your keys. Read it first."""
    from testronaut_llm.config import trust as trusted
    from testronaut_llm.config.file import find_config, load_config

    file = file or find_config().path
    load_config(file)
    screen.note(f"trusted until it changes: {trusted.trust(file)}")
