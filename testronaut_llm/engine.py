"""The parts of a manager, how one call or many get their results, and the methods that ask no model."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from testronaut_llm.cache.answer_cache import AnswerCache
from testronaut_llm.cache.lookup import Lookup
from testronaut_llm.config.source import ConfigSource
from testronaut_llm.errors import ConfigError, LLMError
from testronaut_llm.local.readiness import Probes
from testronaut_llm.methods.batch import Outcome, listed
from testronaut_llm.methods.streams import MakeTask
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.options import call_of
from testronaut_llm.prompts import Prompt
from testronaut_llm.records import Call, Result
from testronaut_llm.support.paths import data_dir
from testronaut_llm.telemetry.redaction import Redactor
from testronaut_llm.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from testronaut_llm.call import Caller
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.loop import LoopTask
    from testronaut_llm.money.ledger import Session
    from testronaut_llm.money.report import Spend
    from testronaut_llm.options import AllOptions


class Engine:
    """The parts behind `LLMManager`, the public API."""

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        config: LLMConfig | None = None,
        gateway: Any = None,
        ledger: Ledger | None = None,
        offline: bool = False,
    ) -> None:
        if path is not None and config is not None:
            raise ConfigError("both a path and config= were given; expected one of them")
        self._source = source = ConfigSource.of(config) if config is not None else ConfigSource.find(path)
        self._redactor, self._probes = Redactor(), Probes()
        self._telemetry = Telemetry(self._redactor.redact, lambda: source.last)
        books = None if offline else data_dir() / "ledger.sqlite3"
        self._ledger = ledger or Ledger(books)
        self._repeatable = offline or ledger is not None
        cache = None if self._repeatable else AnswerCache()
        self._lookup = Lookup(cache, self._probes, self._ledger, self._telemetry, self._redactor)
        self._gateway, self._offline = gateway, offline
        self._made: Caller | None = None
        self._making = threading.Lock()

    @property
    def config(self) -> LLMConfig:
        """The current configuration; edits of the file are picked up."""
        return self._source.current()

    def close(self) -> None:
        """Closes connections and stops embedded models.

        >>> llm.close()
        """
        if self._made is not None:
            self._made.close()
        self._ledger.close()
        self._lookup.close()

    def dropped_params(self, model: str) -> tuple[str, ...]:
        """Returns settings of tasks (`temperature`, `seed`, `stop`) not supported by a model, so not sent.

        >>> llm.dropped_params("fake")
        ()
        """
        row = self.config.model(model)
        return self._caller.services.dropped_params(row, {"temperature": 0.0, "seed": 1, "stop": ["x"]})

    def warm_up(self, *models: str) -> None:
        """Loads LiteLLM, and these local models into memory, so that the first call does not wait for it.

        >>> llm.warm_up()
        """
        services = self._caller.services
        services.gateway.load()
        for name in models:
            services.local.load(self.config.model(name))

    def prune_history(self, older_than: str | date) -> int:
        """Deletes records of requests before a UTC day or older than `90d`, and returns how many; sums stay.

        >>> llm.prune_history("90d")
        0
        """
        from testronaut_llm.money.report import prune

        return prune(self._ledger, older_than)

    def spend(self, since: str | date | None = None) -> Spend:
        """Returns money spent, saved and left, by day, task and model. `since` is a UTC day, or an age such as `7d`.

        >>> llm.spend(since="7d").total.cost
        Decimal('0')
        """
        from testronaut_llm.money.budgets import all_limits
        from testronaut_llm.money.report import report

        return report(self._ledger, self.config.budget_scope() or "", since=since, limits=all_limits(self.config))

    @property
    def session(self) -> Session:
        """USD that the calls of this manager have cost and saved so far.

        >>> llm.session.cost
        Decimal('0')
        """
        return replace(self._ledger.session, **self._telemetry.counts())

    async def aclose(self) -> None:
        """Same as `close`, on the caller's event loop.

        >>> asyncio.run(llm.aclose())
        """
        from asyncio import to_thread

        await to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def _caller(self) -> Caller:
        """Runs calls on models. Created at the first cache miss. Raises LLMError if the program is ending."""
        if not threading.main_thread().is_alive():  # so that no thread can be started
            raise LLMError("the program is ending, so no model can be asked; make the call before its end")
        with self._making:
            if self._made is None:
                from testronaut_llm.call import Caller
                from testronaut_llm.services import Services

                rooms = self._redactor, self._telemetry, self._probes, self._ledger
                services = Services(self._source.current, *rooms, self._gateway, offline=self._offline)
                services.local.repeatable = self._repeatable
                self._made = Caller(services, self._lookup)
            return self._made

    def _result(self, call: Call) -> Result:
        """Returns a cached result, read in this thread; on a miss, the call runs on the manager's event loop."""
        with self._telemetry.watch(call):
            found = self._lookup.find(call)
            return found if found is not None else self._caller.missed(call).result()

    async def _aresult(self, call: Call) -> Result:
        from asyncio import to_thread

        lookup = self._lookup
        with self._telemetry.watch(call):
            found = lookup.find(call) if lookup.is_quick(call) else await to_thread(lookup.find, call)
            return found if found is not None else await self._caller.missed(call).aresult()

    def _begin(self, task: str | None, prompt: Prompt, options: AllOptions) -> MakeTask:
        """Checks the arguments now; returns a function that makes the call's task. Its deadline counts from then on."""
        call = call_of(self.config, task, prompt, options, stream=True)
        return lambda emit: self._caller.stream(replace(call, started=monotonic()), emit)

    def _each(self, task: str | None, prompts: Iterable[Prompt], options: AllOptions) -> Iterator[LoopTask[Outcome]]:
        """Checks the arguments that many calls share; returns the tasks of the calls, made when they are asked for."""
        call_of(self.config, task, "?", options)
        caller = self._caller

        def made(prompt: Prompt) -> LoopTask[Outcome]:
            return caller.outcome(lambda: call_of(self.config, task, prompt, options))

        return map(made, listed(prompts))
