"""What one manager holds, and how a call becomes a route and a flow. The surface is in `llm_manager.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from testronaut_llm.cache.answer_cache import AnswerCache
from testronaut_llm.config.secrets import secret_parts
from testronaut_llm.errors import AuthenticationError, PermissionDeniedError
from testronaut_llm.providers.provider_registry import (
    Probes,
    Readiness,
    api_base_of,
    api_version_of,
    provider_of,
    readiness,
)
from testronaut_llm.support.lazy import lazy
from testronaut_llm.support.paths import data_dir
from testronaut_llm.telemetry.log import logger
from testronaut_llm.telemetry.redaction import Redactor
from testronaut_llm.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from testronaut_llm.calls.steps import Flow, Result
    from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig
    from testronaut_llm.config.source import ConfigSource
    from testronaut_llm.gateway.gateway import Gateway
    from testronaut_llm.gateway.model_request import Target
    from testronaut_llm.limits.rate_limiter import RateLimiter
    from testronaut_llm.local.local_models import LocalModels
    from testronaut_llm.local.speeds import SpeedHistory
    from testronaut_llm.loop import Loop
    from testronaut_llm.money.budgets import Budgets
    from testronaut_llm.money.ledger import Ledger
    from testronaut_llm.money.prices import PriceTable
    from testronaut_llm.money.token_counter import TokenCounter
    from testronaut_llm.providers.credentials import Credentials
    from testronaut_llm.records import Attempt, Call, Route
    from testronaut_llm.routing.task_router import Selected
    from testronaut_llm.schema.output_schema import SchemaDialect

_SHORT = 8000  # characters whose tokens are counted within a millisecond or two


class Engine:
    """The state of one manager: configuration, keys, connections, prices. Safe for threads.

    Attributes:
        answers: what is stored of earlier calls; None where nothing shall be.
        purse: reserves in place of the budgets of `llm.yaml`; None but for recording sessions and tests.
    """

    def __init__(self, source: ConfigSource) -> None:
        self.source = source
        self.redactor = Redactor()
        self.telemetry = Telemetry(self.redactor.redact, lambda: self.source.last)
        self.probes = Probes()
        self.answers: AnswerCache | None = AnswerCache()
        self.purse: Any = None
        self._routed: set[tuple[str, str]] = set()
        self._doubted: set[str] = set()

    @lazy
    def prices(self) -> PriceTable:
        """The price table, read at its first use."""
        from testronaut_llm.money.prices import PriceTable

        return PriceTable.load()

    @lazy
    def credentials(self) -> Credentials:
        """The keys, read late."""
        from testronaut_llm.providers.credentials import Credentials

        return Credentials()

    @lazy
    def counter(self) -> TokenCounter:
        """Counts tokens, and learns from answers."""
        from testronaut_llm.money.token_counter import TokenCounter

        return TokenCounter()

    @lazy
    def ledger(self) -> Ledger:
        """The books, opened at their first use."""
        from testronaut_llm.money.ledger import Ledger

        return Ledger(data_dir() / "ledger.sqlite3", scope=lambda: self.source.current().budget_scope() or "")

    @lazy
    def budgets(self) -> Budgets:
        """What may be spent."""
        from testronaut_llm.money.budgets import Budgets

        return Budgets(self.ledger)

    @lazy
    def limiter(self) -> RateLimiter:
        """Who may send now."""
        from testronaut_llm.limits.rate_limiter import RateLimiter

        return RateLimiter()

    @lazy
    def gateway(self) -> Gateway:
        """The door to LiteLLM, which is loaded by the first attempt."""
        from testronaut_llm.gateway.gateway import Gateway

        return Gateway(self.redactor.redact)

    @lazy
    def loop(self) -> Loop:
        """Where sync calls send."""
        from testronaut_llm.loop import Loop

        return Loop()

    @lazy
    def local(self) -> LocalModels:
        """The models of this machine, and of Ollama servers."""
        from testronaut_llm.local.local_models import LocalModels

        return LocalModels(self.source.current, self.probes, self.telemetry.happened)

    @lazy
    def speeds(self) -> SpeedHistory:
        """What was measured of local models on this machine."""
        from testronaut_llm.local.speeds import SpeedHistory

        return SpeedHistory()

    def ready(self, model: ModelConfig) -> Readiness:
        """Can this model be asked now, and if not, what is missing?"""
        return readiness(model, probes=self.probes)

    def flow(self, config: LLMConfig, task: TaskConfig, call: Call, texts: tuple[str, ...] = ()) -> tuple[Route, Flow]:
        """The route and the call as something to drive: an embedding of `texts`, or a chat without.

        Raises:
            LLMError: no candidate is left to be asked.
        """
        from testronaut_llm.calls.plan import flow_along

        begun = flow_along(self, config, task, call, texts)
        self._routed.update((one.alias, one.model) for one in begun[0].candidates)
        return begun

    def is_warm(self, candidates: Sequence[Selected], call: Call) -> bool:
        """Does `flow` take a fraction of a millisecond: all is loaded, no server is asked, little is to be counted?"""
        return sum(len(message.content) for message in call.messages) <= _SHORT and all(
            (one.model.alias, one.model.model) in self._routed
            and self.probes.remembers(one.model, one.provider)
            and self.local.remembers(one.model)
            for one in candidates
        )

    def accepted(self, config: LLMConfig, call: Call, result: Result, route: Route) -> None:
        """Learns from an accepted result."""
        model = config.model(result.model)
        self.learn(call, result, route, model)

    def learn(self, call: Call, result: Result, route: Route, model: ModelConfig) -> None:
        """Notes what the answer reported of its tokens."""
        asked = next(one for one in route.candidates if one.alias == result.model)
        if len(result.attempts) == 1 and asked.est_tokens is not None:  # a repair's prompt is not the one estimated
            self.counter.observe(call.task, model, asked.est_tokens, result.usage)

    def target(self, model: ModelConfig, embeddings: bool = False) -> Target:
        """Where a model is asked and with which key. May start a local model, or run a command.

        Args:
            model: which.
            embeddings: shall it embed?

        Raises:
            MissingCredentialError: there is no key.
            LocalModelError: the local model cannot be served.
        """
        from pydantic import SecretStr

        from testronaut_llm.gateway.model_request import Target

        provider = provider_of(model)
        if provider.name == "embedded":
            endpoint = self.local.serve(model, embeddings=embeddings)
            self.redactor.add(endpoint.token)
            token = SecretStr(endpoint.token)
            return Target(model=model, provider=provider, api_base=endpoint.api_base, key=token)
        key = self.credentials.key(model, provider)
        if key is not None:
            self.redactor.add(key.get_secret_value())
        for text in (*model.environment_texts, *secret_parts(api_base_of(model, provider) or "")):
            self.redactor.add(text)
        return Target(
            model=model,
            provider=provider,
            api_base=api_base_of(model, provider),
            api_version=api_version_of(model, provider),
            key=key,
            token_provider=None if key else self.credentials.token_provider(model, provider),
            thinks=self.local.thinks(model) if provider.wire == "ollama" else None,
        )

    def close(self) -> None:
        """Closes connections and ends embedded models."""
        for name in ("loop", "local", "ledger", "counter", "credentials"):
            if name in self.__dict__:
                self.__dict__[name].close()
        if self.answers is not None:
            self.answers.close()
        self.telemetry.close()

    async def aclose(self) -> None:
        """The same, with the connections of the running event loop."""
        import asyncio

        if "gateway" in self.__dict__:
            await self.gateway.aclose()
        await asyncio.to_thread(self.close)

    def attempted(self, call: Call, attempt: Attempt) -> None:
        """Takes note of an attempt that has ended."""
        if isinstance(attempt.error, AuthenticationError | PermissionDeniedError):
            self.credentials.forget()  # a command may print a newer key
        self.telemetry.attempt(call, attempt)

    def not_taken(self, model: ModelConfig) -> tuple[str, ...]:
        """Which settings a model does not take at all."""
        from testronaut_llm.gateway.model_request import Target

        params = {"temperature": 0.0, "seed": 1, "stop": ["x"]}
        target = Target(model=model, provider=provider_of(model), api_base=None)
        return (*self.gateway.dropped_params(target, params), *self.not_thought(model))

    def not_thought(self, model: ModelConfig) -> tuple[str, ...]:
        """`reasoning`, where the row of an Ollama model asks for it and the model cannot think. May ask its server."""
        provider = provider_of(model)
        if provider.wire != "ollama" or model.reasoning in (None, "off"):
            return ()
        self.probes.ask(model, provider)
        return ("reasoning",) if self.local.thinks(model) is False else ()

    def doubted(self, alias: str, counts: tuple[str, ...]) -> None:
        """Warns once of a model whose server reports counts that cannot be."""
        if alias not in self._doubted:
            self._doubted.add(alias)
            fault = f"{', '.join(counts)} of its answer cannot be right, so its tokens and cost are estimates"
            mend = "check the server behind `api_base`, and the bill of the provider"
            logger().warning("usage_impossible", model=alias, fault=fault, mend=mend)

    def dialect(self, model: ModelConfig) -> SchemaDialect:
        """Which JSON Schema the model takes: what its provider takes, unless the tables know it for too old."""
        dialect, facts = provider_of(model).schema_dialect, self.prices.facts(model)
        return "none" if dialect == "strict" and facts.known and not facts.supports_schema else dialect
