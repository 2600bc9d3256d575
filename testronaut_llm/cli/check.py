"""`check`: reports errors of the file, models that are not ready, tasks that cannot run, and the installation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile, Params
from testronaut_llm.errors import ConfigError, LLMError, OutputTruncatedError
from testronaut_llm.support.paths import version

if TYPE_CHECKING:
    from testronaut_llm.money.prices import PriceTable

TESTED_LITELLM = "1.110.2"
"""The newest LiteLLM release that passed the tests."""

_SECRETS = "mask, allow for local models"
_WORDS = {_SECRETS: "masked, but for local models", "mask": "masked", "refuse": "refused", "allow": "sent unchanged"}
_LIVE = "Send one token to each ready model; this costs money. The result is not kept: `route` does not know it."


def check(
    live: Annotated[bool, typer.Option("--live", help=_LIVE)] = False,
    params: Params = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Check llm.yaml: its errors, missing keys, servers that do not answer. Sends no prompt without --live.

    Exits with 2 if no model can run a task, unless the task has `optional: true`.
    """
    from testronaut_llm.money.prices import PriceTable

    prices = PriceTable.load()
    with testronaut_llm.LLMManager(config) as llm:
        settings = llm.config
        names = dict.fromkeys([*settings.models, *(name for task in settings.tasks.values() for name in task.models)])
        models = [_report(llm, alias, params=params or live) for alias in names]
        if live:
            _ask_each(settings, [one for one in models if one["ready"]], prices)
    ready = {one["alias"] for one in models if one["ready"]}
    table = next(iter(prices.tables()), None)
    found: dict[str, Any] = {
        "file": settings.path,
        "trusted": settings.trusted,
        "ignored": settings.ignored,
        "models": models,
        "tasks": {name: _can_run(settings, name, ready) for name in settings.tasks},
        "secrets": {name: task.secrets or settings.secrets or _SECRETS for name, task in settings.tasks.items()},
        "litellm": litellm_version(),
        "prices": f"{table.name}, newest model in it: {table.newest}" if table else "none; see prices update --help",
        "warnings": list(warnings()),
    }
    stopped = [name for name, can_run in found["tasks"].items() if not can_run]
    needed = [name for name in stopped if not settings.tasks[name].optional]
    if as_json:
        screen.out_json(found)
    else:
        _show(found, {"tasks": needed, "optional tasks": [name for name in stopped if name not in needed]})
    if any(one["live"] not in (None, "answers") for one in models):
        raise typer.Exit(screen.FAILED)
    if needed or any(one["unknown"] for one in models):
        raise typer.Exit(screen.USAGE)


def _can_run(settings: testronaut_llm.LLMConfig, task: str, ready: set[str]) -> bool:
    from testronaut_llm.routing.task_router import select

    with suppress(ConfigError):  # its provider is unknown; the row of its model says so
        selected = select(settings, None, settings.tasks[task])
        return any(one.alias in ready and one.kept for one in selected)
    return False


def _report(llm: testronaut_llm.LLMManager, alias: str, *, params: bool) -> dict[str, Any]:
    """Returns the state of one model. `unknown` is True if its provider is unknown: a mistake in the file."""
    from testronaut_llm.local.readiness import readiness
    from testronaut_llm.providers.provider_registry import is_local

    model = llm.config.model(alias)
    found = readiness(model)
    local, unknown = False, True
    with suppress(ConfigError):  # its provider is unknown; `found` names the closest one
        local, unknown = is_local(model), False
    return {
        "alias": alias,
        "model": model.model,
        "ready": found.ready,
        "local": local,
        "unknown": unknown,
        "note": found.missing or found.note,
        "fix": found.fix,
        "dropped_params": llm.dropped_params(alias) if params and found.ready else None,
        "live": None,
    }


def _ask_each(settings: testronaut_llm.LLMConfig, models: list[dict[str, Any]], prices: PriceTable) -> None:
    """Sends one token to each model, under the file's budget. A model that does not answer is not ready."""
    from testronaut_llm.config.model_config import TaskConfig

    rules = {"min_quality": 1, "cache": "off", "retries": 0}
    names = [one["alias"] for one in models]
    tasks = {name: TaskConfig.model_validate({"name": name, "models": name, **rules}) for name in names}
    with testronaut_llm.LLMManager(config=settings.model_copy(update={"tasks": tasks})) as llm:
        for one in models:
            name = one["alias"]
            try:
                with suppress(OutputTruncatedError):  # after its one token
                    if prices.facts(settings.model(name)).mode == "embedding":
                        llm.embed(name, "hi")
                    else:
                        llm.complete(name, "Say hi.", max_tokens=1, deadline=60)
                one["live"] = "answers"
            except LLMError as error:
                one["live"], one["ready"] = f"{error.code}: {error}", False


def _show(found: dict[str, Any], stopped: dict[str, list[str]]) -> None:
    from testronaut_llm.providers.provider import TRUST

    screen.note(f"{found['file'] or 'the packaged default'}: valid")
    if not found["trusted"]:
        ignored = f"; without effect until it is trusted: {', '.join(found['ignored'])}" if found["ignored"] else ""
        screen.note(f"not trusted, as it may come from elsewhere{ignored}; {TRUST}")
    rows = []
    for one in found["models"]:
        dropped = f"does not take {', '.join(one['dropped_params'])}" if one["dropped_params"] else ""
        about = "; ".join(filter(None, (one["note"], one["fix"], dropped, one["live"])))
        rows.append((one["alias"], one["model"], one["ready"], about))
    screen.table("models", ("name", "model", "ready", "note"), rows)
    for mode in dict.fromkeys(found["secrets"].values()):
        tasks = ", ".join(name for name, one in found["secrets"].items() if one == mode)
        screen.note(f"secrets in prompts: {_WORDS.get(mode, mode)} ({tasks})")
    screen.note(f"litellm {found['litellm']}; prices: {found['prices']}")
    for warning in found["warnings"]:
        screen.note(f"warning: {warning}")
    for kind, names in stopped.items():
        if names:
            why = f"for the reasons, run: testronaut-llm route {names[0]}"
            screen.note(f"{kind} that no model can run: {', '.join(names)}; {why}")


def litellm_version() -> str:
    """Returns the installed version without importing it, or `not installed`."""
    return version("litellm") or "not installed"


def warnings() -> Iterator[str]:
    """Yields a sentence for each problem of the installation."""
    from testronaut_llm.providers import network

    yield from network.problems()
    litellm = litellm_version()
    installed, tested = ([int(part) for part in re.findall(r"\d+", text)[:3]] for text in (litellm, TESTED_LITELLM))
    if installed > tested:
        yield (
            f"litellm {litellm} is newer than {TESTED_LITELLM}, the newest release that was tested; "
            f"if calls fail, run: pip install 'litellm=={TESTED_LITELLM}'"
        )
