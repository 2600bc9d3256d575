"""What a manager is besides its calls: configuration, what it knows of models and money, its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from testronaut_llm.calls.asking import Asking
from testronaut_llm.calls.builder import Prompt
from testronaut_llm.calls.engine import Engine
from testronaut_llm.calls.prepared import options_of
from testronaut_llm.config.source import ConfigSource
from testronaut_llm.errors import ConfigError, LLMError
from testronaut_llm.records import Answer, Route
from testronaut_llm.support.lazy import lazy
from testronaut_llm.task_router import select

if TYPE_CHECKING:
    from testronaut_llm.accounting.report import Spend
    from testronaut_llm.ledger import Session
    from testronaut_llm.model_config import LLMConfig


class ManagerBase:
    """Holds the configuration and the engine.

    Args:
        path: the file; found as documented if not given.
        config: made in Python, in place of a file.

    Raises:
        ConfigError: the configuration is wrong; with every fault, and its line.
    """

    def __init__(self, path: str | Path | None = None, *, config: LLMConfig | None = None) -> None:
        if path is not None and config is not None:
            raise ConfigError("both a path and config= were given; expected one of them")
        if config is not None and _has_budget(config) and config.budget_scope() is None:
            raise ConfigError(
                "config= has a budget without `scope`; say whose money it is: budget={'scope': 'my-app', ...}"
            )
        self._engine = Engine(ConfigSource.of(config) if config is not None else ConfigSource.find(path))

    @lazy
    def _asking(self) -> Asking:
        return Asking(self._engine)

    @property
    def config(self) -> LLMConfig:
        """The configuration as it is now; edits of the file show up here."""
        return self._engine.source.current()

    def route(self, task: str | None, prompt: Prompt = "", *, model: str | None = None, schema: Any = None) -> Route:
        """A dry run: every candidate with tokens, cost, kept or dropped, and why. Sends nothing.

        Raises:
            ConfigError: the task or the model is unknown.
        """
        from testronaut_llm.calls.plan import route_of

        question = self._asking.question({"task": task, "prompt": prompt or "?", "model": model, "schema": schema})
        config, settings = question.prepared.config, question.prepared.task
        return route_of(self._engine, config, settings, question.call, select(config, model, settings), dry=True)

    def dropped_params(self, model: str) -> tuple[str, ...]:
        """Settings of tasks (`temperature`, `seed`, `stop`) that a model does not take and is asked without.

        Raises:
            ConfigError: the model is unknown.
        """
        return self._engine.not_taken(self.config.model(model))

    def is_embedding(self, model: str) -> bool:
        """Does the model make vectors instead of text, as far as the tables know?

        Raises:
            ConfigError: the model is unknown.
        """
        return self._engine.prices.facts(self.config.model(model)).mode == "embedding"

    def warm_up(self, *models: str) -> None:
        """Does now what the first call would wait for: loads LiteLLM, and these local models into memory.

        Args:
            models: names of `llm.yaml`, or `provider/name`; a model of the cloud needs no warming.

        Raises:
            ConfigError: a model is unknown.
            LocalModelError: it is not here, or cannot be loaded.
        """
        config = self.config
        rows = [config.model(name) for name in models]
        self._engine.gateway.load()
        for row in rows:
            self._engine.local.load(row)

    def spend(self, since: str | date | None = None) -> Spend:
        """What was spent and saved with this file's money, by day, task and model, and what its limits leave.

        Args:
            since: the first UTC day to count, or a time that has passed, such as `7d`; all if not given.

        Raises:
            ConfigError: `since` is no such thing, or the ledger cannot be used.
        """
        from testronaut_llm.accounting.report import first_day, report
        from testronaut_llm.calls.budgets import all_limits, scope_of

        config, ledger = self.config, self._engine.ledger
        first = first_day(since, ledger.clock())
        return report(ledger, scope_of(config), since=first, limits=all_limits(config))

    def prune_history(self, older_than: str | date) -> int:
        """Forgets the single requests before a UTC day, or older than a time such as `90d`; every sum stays.

        Returns how many went, of all scopes.

        Raises:
            ConfigError: `older_than` is no such thing, or the ledger cannot be used.
        """
        from testronaut_llm.accounting.report import first_day, prune

        ledger = self._engine.ledger
        return prune(ledger, first_day(older_than, ledger.clock()) or "")

    def answer_each(
        self,
        task: str | None,
        prompts: Iterable[Prompt],
        on_answer: Callable[[int, Answer[Any] | LLMError], object],
        *,
        concurrency: int = 8,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`batch` for more prompts than fit into memory: no result is kept.

        Args:
            task: as in `complete`.
            prompts: read as far as the calls have come.
            on_answer: is given the place of a prompt and its result, in this thread, as soon as it is there.
            concurrency: calls at once.
            options: further arguments of `complete`, which all calls share.

        Raises:
            LLMError: an argument that all calls share is wrong.
        """
        from testronaut_llm.calls.batch import prompt_jobs, run_each

        given = {"task": task, **options_of({} if options is None else options)}
        ask, (jobs, _) = self._asking.each(given), prompt_jobs(prompts)
        run_each(ask, jobs, concurrency=concurrency, finished=on_answer)

    @property
    def session(self) -> Session:
        """What this manager's own calls cost and saved so far, in USD."""
        return self._engine.ledger.session

    def close(self) -> None:
        """Closes connections and ends embedded models."""
        self._asking.close()
        self._engine.close()

    async def aclose(self) -> None:
        """The same from an event loop, with its connections."""
        self._asking.close()
        await self._engine.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()


def _has_budget(config: LLMConfig) -> bool:
    from testronaut_llm.calls.budgets import limits_of

    return config.budget is not None or any(limits_of(config, task) for task in config.tasks.values())
