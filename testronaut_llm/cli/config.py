"""`init`, `demo`, `trust`, `config` and `export`: write llm.yaml, try it for free, trust it, edit it, convert it."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.ask import show_route
from testronaut_llm.cli.options import AsJson, ConfigFile, bill, settings_of, write_file
from testronaut_llm.errors import ConfigError, LLMError, LocalModelError
from testronaut_llm.support.text import visible

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig

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
    from testronaut_llm.proxy import proxy_export

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


TOOLS = ("git", "ls", "tar", "python3", "make")
SMALL, ABSENT = "embedded/smollm2-135m", "absent"
_HELP_CHARACTERS = 900  # a small model on a small machine reads about 50 tokens a second
_CLOSING = """
Routing, the fallback from a missing model, schemas and costs are real. The judgement of a small model is not.
A better model is one line of llm.yaml (testronaut-llm init writes one), for example:
  tasks: {cli_analysis: {models: [luna]}}    # with OPENAI_API_KEY set"""


def _object(title: str, **properties: Any) -> dict[str, Any]:
    return {"title": title, "type": "object", "properties": properties, "required": list(properties)}


_TEXT = {"type": "string", "maxLength": 60}
TOOL = _object("Tool", name=_TEXT, purpose=_TEXT, options={"type": "array", "items": _TEXT, "maxItems": 3})
_TEST = _object("Test", command=_TEXT, expected=_TEXT)
TESTS = {"title": "Tests", "type": "array", "minItems": 1, "maxItems": 2, "items": _TEST}
VERDICT = _object("Verdict", passed={"type": "boolean"}, reason=_TEXT)


def demo(
    live: Annotated[bool, typer.Option("--live", help="Use your own llm.yaml; this may cost money.")] = False,
) -> None:
    """Show the three tasks on the --help of an installed tool. Costs nothing without --live."""
    tool = next((name for name in TOOLS if shutil.which(name) and _output(name, "--help")), None)
    if tool is None:
        raise ConfigError(f"the demo reads the --help of a tool; install one of {', '.join(TOOLS)}")
    text, version = _output(tool, "--help")[:_HELP_CHARACTERS], _output(tool, "--version").partition("\n")[0][:80]
    question = f"{text}\n\nName this tool, say its purpose, and list three options."
    plan = f"Write two tests for `{tool}`. Example: run `{tool} --version`, expect a version number."
    verdict = f"Expected of `{tool} --version`: a version number. Actual: {version}. Did the test pass, and why?"
    config = None if live else private_config()
    if config is not None:
        _fetch_if_needed(config)
    with testronaut_llm.LLMManager(config=config) as llm:
        screen.out(f"\n1. cli_analysis: what is `{tool}`? ({len(text)} characters of its --help)\n")
        found = _ask(llm, "cli_analysis", question, TOOL)
        screen.out("\n2. test_generation: a list as the whole answer\n")
        _ask(llm, "test_generation", plan, TESTS)
        screen.out("\n3. result_verification: the expected result and the actual one\n")
        _ask(llm, "result_verification", verdict, VERDICT)
        if found:
            again = llm.complete("cli_analysis", question, schema=TOOL)
            source = "from the cache" if again.cached else "not from the cache, which cannot be used"
            screen.out(f"\n4. the first question again: {again.latency * 1000:.1f} ms, {source}; {bill(llm)} so far")
    screen.out(_CLOSING)
    if not found:
        raise typer.Exit(screen.FAILED)


def _ask(llm: testronaut_llm.LLMManager, task: str, prompt: str, schema: dict[str, Any]) -> bool:
    """Shows the route, the attempts and the answer. Returns True if a model answered."""
    route = llm.route(task, prompt, schema=schema)
    show_route(route, drawn=True)
    screen.out(f"  asking {', then '.join(one.alias for one in route.kept) or 'no model'} ...")
    ended: testronaut_llm.Answer[Any] | LLMError
    try:
        ended = llm.complete(task, prompt, schema=schema, cache="refresh")
    except LLMError as error:
        ended = error
    for one in ended.attempts:
        screen.out(f"  {one.model} {f'failed: {one.error}' if one.error else 'answered'} [{one.latency:.1f} s]")
    if isinstance(ended, LLMError):
        screen.out(f"  no answer: {str(ended).partition(chr(10))[0][:200]}")
        return False
    screen.out_json(ended.parsed)
    tokens = f"{ended.usage.prompt_tokens} + {ended.usage.completion_tokens} tokens"
    screen.out(f"  matches its schema; {tokens}, cost {bill(llm)} so far")
    return True


def _output(tool: str, flag: str) -> str:
    done = subprocess.run([tool, flag], capture_output=True, timeout=20, check=False)  # noqa: S603
    return (done.stdout or done.stderr).decode("utf-8", "replace").strip()


def private_config() -> testronaut_llm.LLMConfig:
    """Returns the user's models with three private tasks, so that no key is spent."""
    own: dict[str, ModelConfig] = {}
    with suppress(ConfigError):  # the demo needs no file
        own = dict(settings_of(None).models)
    absent = {"model": "openai/nobody-is-here", "api_base": "http://127.0.0.1:9/v1", "local": True}
    models = {ABSENT: absent, "small": {"model": SMALL, "quality": 1}}
    task = {"strategy": "as_listed", "max_tokens": 500, "retries": 0, "private": True, "models": list(models)}
    names = ("cli_analysis", "test_generation", "result_verification")
    made = testronaut_llm.LLMConfig.model_validate({"models": models, "tasks": dict.fromkeys(names, task)})
    listed = {"models": (ABSENT, *own, "small")}
    tasks = {name: one.model_copy(update=listed) for name, one in made.tasks.items()}
    return made.model_copy(update={"models": {**made.models, **own}, "tasks": tasks})


def _fetch_if_needed(config: testronaut_llm.LLMConfig) -> None:
    """Downloads the small model if no local model is ready."""
    from testronaut_llm.cli.models import fetch
    from testronaut_llm.local.readiness import readiness

    with testronaut_llm.LLMManager(config=config) as llm:
        if [one.alias for one in llm.route("cli_analysis").kept] != [ABSENT]:
            return
    if importlib.util.find_spec("xllamacpp") is None:
        missing = readiness(config.models["small"])
        raise LocalModelError(f"no local model is ready; {missing.missing}: {missing.fix}")
    screen.note(f"no local model is ready; using {SMALL} (93 MB through pip, once)")
    fetch(SMALL)
