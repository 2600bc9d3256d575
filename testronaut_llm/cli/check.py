"""`check`: is the file valid, which models are ready, is the installation sound?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile
from testronaut_llm.errors import ConfigError, LLMError, OutputTruncatedError
from testronaut_llm.support.paths import version

TESTED_LITELLM = "1.110.2"
"""The newest release that passed the tests: the locked one."""

BAD_LITELLM = ("1.82.7", "1.82.8")
"""Releases that sent keys to a stranger."""


def check(
    live: Annotated[bool, typer.Option("--live", help="Send one token to each ready model; this costs money.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Check llm.yaml: is it valid, which keys are set, which servers answer. Sends no prompt without --live."""
    with testronaut_llm.LLMManager(config) as llm:
        settings = llm.config
        listed = (name for task in settings.tasks.values() for name in task.models)
        models = [_report(llm, alias, live=live) for alias in dict.fromkeys([*settings.models, *listed])]
    ready = {one["alias"] for one in models if one["ready"]}
    found = {
        "file": settings.path,
        "trusted": settings.trusted,
        "ignored": settings.ignored,
        "models": models,
        "tasks": {name: _can_run(settings, name, ready) for name in settings.tasks},
        "litellm": litellm_version(),
        "prices": _prices(),
        "warnings": list(warnings()),
    }
    if as_json:
        screen.out_json(found)
    else:
        _show(found)
    if any(one["live"] not in (None, "answers") for one in models):
        raise typer.Exit(screen.FAILED)
    if not ready or any(one["unknown"] for one in models):
        raise typer.Exit(screen.USAGE)


def _can_run(settings: testronaut_llm.LLMConfig, task: str, ready: set[str]) -> bool:
    from testronaut_llm.routing.task_router import select

    selected = select(settings, None, settings.tasks[task])
    return any(one.alias in ready and one.kept for one in selected)


def _report(llm: testronaut_llm.LLMManager, alias: str, *, live: bool) -> dict[str, Any]:
    """Returns the state of one model. `unknown` is true if nobody knows its provider: a mistake in the file."""
    from testronaut_llm.providers.provider_registry import is_local, readiness

    model = llm.config.model(alias)
    found = readiness(model)
    local, unknown = False, True
    with suppress(ConfigError):  # of an unknown provider; `found` says which was probably meant
        local, unknown = is_local(model), False
    return {
        "alias": alias,
        "model": model.model,
        "ready": found.ready,
        "local": local,
        "unknown": unknown,
        "note": found.missing or found.note,
        "mend": found.mend,
        "dropped_params": llm.dropped_params(alias) if found.ready else (),
        "live": _ask(llm, alias) if live and found.ready else None,
    }


def _show(found: dict[str, Any]) -> None:
    from testronaut_llm.providers.endpoint import TRUST

    screen.note(f"{found['file'] or 'the packaged default'}: valid{'' if found['trusted'] else ', not trusted'}")
    if found["ignored"]:
        screen.note(f"without effect until it is trusted: {', '.join(found['ignored'])}; {TRUST}")
    rows = []
    for one in found["models"]:
        about = filter(None, (one["note"], one["mend"], one["live"]))
        rows.append(
            (one["alias"], one["model"], one["ready"], ", ".join(one["dropped_params"]) or "-", "; ".join(about))
        )
    screen.table("models", ("model", "is", "ready", "does not take", "note"), rows)
    for name, can_run in found["tasks"].items():
        if not can_run:
            screen.note(f"task {name}: none of its models is ready; for the reasons, run: testronaut-llm route {name}")
    screen.note(f"litellm {found['litellm']}; prices: {found['prices']}")
    for warning in found["warnings"]:
        screen.note(f"warning: {warning}")


def _ask(llm: testronaut_llm.LLMManager, alias: str) -> str:
    """Asks one model under a task of its own, without a task's privacy and budget; the file's budget holds."""
    from testronaut_llm.config.model_config import TaskConfig

    task = TaskConfig.model_validate({"name": "check", "models": alias, "min_quality": 1, "cache": "off", "retries": 0})
    settings = llm.config.model_copy(update={"tasks": {"check": task}})
    try:
        with testronaut_llm.LLMManager(config=settings) as one, suppress(OutputTruncatedError):  # after its one token
            if llm.is_embedding(alias):
                one.embed("check", "hi")
            else:
                one.complete("check", "Say hi.", max_tokens=1, deadline=60)
    except LLMError as error:
        return f"{error.code}: {error}"
    return "answers"


def _prices() -> str:
    """Returns the name and the age of the first price table."""
    from testronaut_llm.money.prices import PriceTable

    table = next(iter(PriceTable.load().tables()), None)
    if table is None:
        return "no table; run: testronaut-llm prices update FILE"
    return f"{table.name}, newest dated model of {table.newest}"


def litellm_version() -> str:
    """Returns the installed version without importing it, or `not installed`."""
    return version("litellm") or "not installed"


def warnings() -> Iterator[str]:
    """Yields what is wrong with the installation, one sentence each."""
    from testronaut_llm.providers import network, provider_registry

    yield from network.faults()
    litellm = litellm_version()
    if litellm in BAD_LITELLM:
        yield f"litellm {litellm} sends keys to a stranger: upgrade it, and replace your keys"
    if _release(litellm) > _release(TESTED_LITELLM):
        yield (
            f"litellm {litellm} is newer than {TESTED_LITELLM}, the newest release that was tested; "
            f"if calls fail, run: pip install 'litellm=={TESTED_LITELLM}'"
        )
    if not provider_registry.litellm_names():
        yield "the provider names of litellm cannot be read, so a misspelt provider is not reported"


def _release(litellm: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", litellm)[:3]))
