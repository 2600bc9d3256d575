"""`check`: is the file valid, which keys are there, which servers answer?"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile
from testronaut_llm.errors import ConfigError, LLMError, OutputTruncatedError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """One model as `check` finds it."""

    alias: str
    model: str
    ready: bool
    local: bool
    unknown: bool
    """Nobody knows its provider: a mistake in the file, where a missing key is none."""
    note: str
    mend: str
    dropped_params: tuple[str, ...]
    live: str | None = None


def check(
    live: Annotated[bool, typer.Option("--live", help="Send one token to each ready model; this costs money.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Check llm.yaml: is it valid, which keys are there, which servers answer. Sends no prompt without --live."""
    from testronaut_llm.cli import installation
    from testronaut_llm.routing.task_router import select

    with testronaut_llm.LLMManager(config) as llm:
        settings = llm.config
        reports = [_report(llm, settings, alias, live=live) for alias in _aliases(settings)]
    ready = {one.alias for one in reports if one.ready}
    tasks = {
        name: any(one.model.alias in ready and one.excluded is None for one in select(settings, None, task))
        for name, task in settings.tasks.items()
    }
    about = {"litellm": installation.litellm_version(), "prices": _prices(), "warnings": installation.warnings()}
    if as_json:
        head = {"file": settings.path, "trusted": settings.trusted, "ignored": settings.ignored}
        screen.out_json({**head, "models": reports, "tasks": tasks, **about})
    else:
        _show(settings, reports, tasks, about)
    if any(one.live not in (None, "answers") for one in reports):
        raise typer.Exit(screen.FAILED)
    if any(one.unknown for one in reports) or not any(one.ready for one in reports):
        raise typer.Exit(screen.USAGE)


def _show(
    settings: testronaut_llm.LLMConfig, reports: list[ModelReport], tasks: dict[str, bool], about: dict[str, Any]
) -> None:
    from testronaut_llm.providers.endpoint import TRUST

    screen.note(f"{settings.path or 'the packaged default'}: valid{'' if settings.trusted else ', not trusted'}")
    if settings.ignored:
        screen.note(f"without effect until it is trusted: {', '.join(settings.ignored)}; {TRUST}")
    columns = ("model", "is", "ready", "note", "does not take", "live")
    shown = 6 if any(one.live for one in reports) else 5
    screen.table("models", columns[:shown], [_row(one)[:shown] for one in reports])
    for name, ready in tasks.items():
        if not ready:
            screen.note(f"task {name}: no model that it may use is ready; why: testronaut-llm route {name}")
    screen.note(f"litellm {about['litellm']}; prices: {about['prices']}")
    for warning in about["warnings"]:
        screen.note(f"warning: {warning}")


def _prices() -> str:
    """The table that counts first, and how new it is at least."""
    from testronaut_llm.money.prices import PriceTable

    table = next(iter(PriceTable.load().tables()), None)
    if table is None:
        return "no table; testronaut-llm prices update FILE"
    return f"{table.name}, newest dated model of {table.newest}"


def _aliases(settings: testronaut_llm.LLMConfig) -> list[str]:
    direct = [name for task in settings.tasks.values() for name in task.models if name not in settings.models]
    return [*settings.models, *dict.fromkeys(direct)]


def _report(
    llm: testronaut_llm.LLMManager, settings: testronaut_llm.LLMConfig, alias: str, *, live: bool
) -> ModelReport:
    from testronaut_llm.providers.provider_registry import is_local, readiness

    model = settings.model(alias)
    found = readiness(model)
    try:
        local, unknown = is_local(model), False
    except ConfigError:  # of the provider; readiness says which was meant
        local, unknown = False, True
    return ModelReport(
        alias=alias,
        model=model.model,
        ready=found.ready,
        local=local,
        unknown=unknown,
        note=found.missing or found.note,
        mend=found.mend,
        dropped_params=llm.dropped_params(alias) if found.ready else (),
        live=_ask(settings, alias, embedding=llm.is_embedding(alias)) if live and found.ready else None,
    )


def _ask(settings: testronaut_llm.LLMConfig, alias: str, *, embedding: bool) -> str:
    """Asks one model under a task of its own: no task's privacy or budget holds, the file's budget does."""
    from testronaut_llm.config.model_config import TaskConfig

    task = TaskConfig.model_validate({"name": "check", "models": alias, "min_quality": 1, "cache": "off", "retries": 0})
    try:
        with (
            testronaut_llm.LLMManager(config=settings.model_copy(update={"tasks": {"check": task}})) as llm,
            suppress(OutputTruncatedError),  # it was asked for one token
        ):
            if embedding:
                llm.embed("check", "hi")
            else:
                llm.complete("check", "Say hi.", max_tokens=1, deadline=60)
    except LLMError as error:
        return f"{error.code}: {error}"
    return "answers"


def _row(one: ModelReport) -> tuple[str, ...]:
    note = f"{one.note}; {one.mend}" if one.mend else one.note
    not_taken = ", ".join(one.dropped_params) or "-"
    return one.alias, one.model, "yes" if one.ready else "no", note, not_taken, one.live or "-"
