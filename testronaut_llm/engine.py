"""What one manager holds, and how a call becomes a route and a flow. The surface is in `llm_manager.py`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from testronaut_llm.budgets import Budgets, scope_of
from testronaut_llm.cache import AnswerCache
from testronaut_llm.cost_optimizer import plan
from testronaut_llm.credentials import Credentials
from testronaut_llm.errors import AuthenticationError, ConfigError, LLMError, PermissionDeniedError
from testronaut_llm.fallback import Policy, Try
from testronaut_llm.model_request import EmbedRequest, Request, Target
from testronaut_llm.paths import data_dir
from testronaut_llm.prices import PriceTable
from testronaut_llm.prompt_cache import PrefixWatch
from testronaut_llm.provider_registry import (
    Probes,
    Readiness,
    api_base_of,
    api_version_of,
    provider_of,
    readiness,
    timeout_of,
)
from testronaut_llm.records import Attempt, Call, Route
from testronaut_llm.redaction import Redactor
from testronaut_llm.request_maker import chat_request
from testronaut_llm.route_errors import nothing_left
from testronaut_llm.route_options import weigh
from testronaut_llm.spending import Purse
from testronaut_llm.task_router import Selected, one_vector_space, select
from testronaut_llm.telemetry import Telemetry
from testronaut_llm.token_counter import TokenCounter

if TYPE_CHECKING:
    from testronaut_llm.call_flow import Flow, Result
    from testronaut_llm.config_source import ConfigSource
    from testronaut_llm.gateway import Gateway
    from testronaut_llm.ledger import Ledger
    from testronaut_llm.local.local_provider import EmbeddedRunner
    from testronaut_llm.model_config import LLMConfig, ModelConfig, TaskConfig
    from testronaut_llm.output_schema import SchemaDialect


class Engine:
    """The state of one manager: configuration, keys, connections, prices. Safe for threads.

    Attributes:
        answers: what is stored of earlier calls; None where nothing shall be.
        purse: pays for all calls in place of the budgets of `llm.yaml`; None but for recording sessions and tests.
    """

    def __init__(self, source: ConfigSource) -> None:
        self.source = source
        self.redactor = Redactor()
        self.telemetry = Telemetry(self.redactor.redact)
        self.credentials = Credentials()
        self.probes = Probes()
        self.counter = TokenCounter()
        self.answers: AnswerCache | None = AnswerCache()
        self.purse: Purse | None = None
        self.prefixes = PrefixWatch()
        self._embedded: dict[str, str] = {}

    @functools.cached_property
    def prices(self) -> PriceTable:
        """The price table, read at its first use."""
        return PriceTable.load()

    @functools.cached_property
    def ledger(self) -> Ledger:
        """The books, opened at their first use."""
        from testronaut_llm.ledger import Ledger

        return Ledger(data_dir() / "ledger.sqlite3", scope=lambda: scope_of(self.source.current()))

    @functools.cached_property
    def budgets(self) -> Budgets:
        """What may be spent."""
        return Budgets(self.ledger)

    @functools.cached_property
    def gateway(self) -> Gateway:
        """The door to LiteLLM, which is loaded by the first attempt."""
        from testronaut_llm.gateway import Gateway

        return Gateway(self.redactor.redact)

    @functools.cached_property
    def runner(self) -> EmbeddedRunner:
        """The embedded models, started at their first use."""
        from testronaut_llm.local.local_provider import EmbeddedRunner

        return EmbeddedRunner()

    def selected(self, config: LLMConfig, task: TaskConfig, model: str | None) -> tuple[Selected, ...]:
        """The models that the task lists, or the one that the call names."""
        return select(config, model, task)

    def route(
        self,
        config: LLMConfig,
        task: TaskConfig,
        call: Call,
        selected: tuple[Selected, ...],
        *,
        dry: bool = False,
        embedding: bool = False,
    ) -> Route:
        """Which models to ask, in which order, and why.

        A dry run counts the models that cannot be asked, too, and looks up what each would leave out.
        """
        ready = {
            one.model.alias: self.ready(one.model, trusted=config.trusted) for one in selected if one.excluded is None
        }
        options = weigh(
            selected,
            ready,
            task=task.name,
            messages=call.messages,
            max_tokens=call.max_tokens,
            prices=self.prices,
            counter=self.counter,
            schema_texts={one.model.alias: self._schema_text(call, one.model) for one in selected},
            dropped_params={one.model.alias: self._dropped(call, one) for one in selected} if dry else None,
            count_all=dry,
            embedding=embedding,
        )
        return plan(
            task,
            options,
            max_tokens=0 if embedding else call.max_tokens,
            money=self.budgets.money(config, task, call),
            schema=call.output is not None,
            strategy="as_listed" if embedding else None,
        )

    def ready(self, model: ModelConfig, *, trusted: bool) -> Readiness:
        """Can this model be asked now, and if not, what is missing?"""
        return readiness(model, trusted=trusted, probes=self.probes)

    def flow(self, config: LLMConfig, task: TaskConfig, call: Call, texts: tuple[str, ...] = ()) -> tuple[Route, Flow]:
        """The route and the call as something to drive: an embedding of `texts`, or a chat without.

        Raises:
            LLMError: no candidate is left to be asked.
        """
        from testronaut_llm.call_flow import Plan, flow_of
        from testronaut_llm.judge import Judge

        selected = self.selected(config, task, call.model)
        if texts:
            selected = one_vector_space(selected)
        route = self.route(config, task, call, selected, embedding=bool(texts))
        if not route.kept:
            raise nothing_left(route)
        self.gateway.load()
        models = {one.model.alias: one.model for one in selected}
        purse = self.budgets.purse(config, task, call)
        judge = Judge(
            call=call,
            models=models,
            prices=self.prices,
            counter=self.counter,
            dialect=self.dialect,
            autopsy=self._autopsy,
            affordable=purse.affords,
            allow_truncated=task.allow_truncated,
            vectors=bool(texts),
        )
        made = Plan(
            route=route,
            ask=functools.partial(self._ask, config, call, models, texts),
            limit={alias: call.timeout or timeout_of(model) for alias, model in models.items()},
            judge=judge,
            purse=self.purse or purse,
            policy=Policy(retries=call.retries, fallback_on=task.fallback_on, cascade=task.strategy == "cascade"),
            slow=lambda alias: models[alias].provider == "embedded" or models[alias].api_key_command is not None,
            on_attempt=self._attempted,
        )
        return route, flow_of(call, made)

    def accepted(self, call: Call, result: Result, route: Route) -> None:
        """Learns from an accepted result, and books what its route saved."""
        with suppress(ConfigError):  # an edit of the file took the model away meanwhile
            self.learn(call, result, route)
            self.prefixes.answered(call, self.source.current().model(result.model), result.usage, self.prices)
            if self.purse is None:
                self.budgets.routed(self.source.current(), self.prices, call.task, result, route)

    def learn(self, call: Call, result: Result, route: Route) -> None:
        """Notes what the answer reported of its tokens."""
        asked = next(one for one in route.candidates if one.alias == result.model)
        if len(result.attempts) == 1 and asked.est_tokens is not None:  # a repair's prompt is not the one estimated
            self.counter.observe(call.task, self.source.current().model(result.model), asked.est_tokens, result.usage)

    def target(self, model: ModelConfig, *, trusted: bool, embeddings: bool = False) -> Target:
        """Where a model is asked and with which key. May start a local model or run a command.

        Raises:
            MissingCredentialError: there is no key.
            LocalModelError: the embedded model cannot be served.
        """
        from pydantic import SecretStr

        provider = provider_of(model)
        if provider.name == "embedded":
            endpoint = self.runner.endpoint(model, embeddings=embeddings)
            self.redactor.add(endpoint.token)
            self._embedded[model.alias] = endpoint.api_base
            token = SecretStr(endpoint.token)
            return Target(model=model, provider=provider, api_base=endpoint.api_base, key=token)
        key = self.credentials.key(model, provider, trusted=trusted)
        if key is not None:
            self.redactor.add(key.get_secret_value())
        for text in model.environment_texts:
            self.redactor.add(text)
        return Target(
            model=model,
            provider=provider,
            api_base=api_base_of(model, provider),
            api_version=api_version_of(model, provider),
            key=key,
            token_provider=None if key else self.credentials.token_provider(model, provider, trusted=trusted),
        )

    def close(self) -> None:
        """Closes connections and ends embedded models."""
        for name in ("gateway", "runner", "ledger"):
            if name in self.__dict__:
                self.__dict__[name].close()
        if self.answers is not None:
            self.answers.close()
        self.credentials.close()
        self.counter.close()

    async def aclose(self) -> None:
        """The same, with the connections of the running event loop."""
        if "gateway" in self.__dict__:
            await self.gateway.aclose()
        self.close()

    def _autopsy(self, alias: str) -> LLMError | None:
        base = self._embedded.get(alias)
        return self.runner.crash(base) if base else None

    def _attempted(self, call: Call, attempt: Attempt) -> None:
        if isinstance(attempt.error, AuthenticationError | PermissionDeniedError):
            self.credentials.forget()  # a command may print a newer key
        self.telemetry.attempt(call, attempt)

    def _ask(
        self,
        config: LLMConfig,
        call: Call,
        models: Mapping[str, ModelConfig],
        texts: tuple[str, ...],
        step: Try,
        text: str,
    ) -> Callable[[float], Request | EmbedRequest]:
        model = models[step.candidate.alias]

        def make(timeout: float) -> Request | EmbedRequest:
            target = self.target(model, trusted=config.trusted, embeddings=bool(texts))
            if texts:
                return EmbedRequest(target=target, texts=texts, timeout=timeout, extra=call.extra)
            schema = call.output.wire(self.dialect(model)) if call.output else None
            return chat_request(call, target, step, schema=schema, timeout=timeout, answered=text)

        return make

    def not_taken(self, model: ModelConfig) -> tuple[str, ...]:
        """Which settings a model does not take at all."""
        params = {"temperature": 0.0, "seed": 1, "stop": ["x"]}
        return self.gateway.dropped_params(Target(model=model, provider=provider_of(model), api_base=None), params)

    def dialect(self, model: ModelConfig) -> SchemaDialect:
        """Which JSON Schema the model takes: what its provider takes, unless the tables know it for too old."""
        dialect, facts = provider_of(model).schema_dialect, self.prices.facts(model)
        return "none" if dialect == "strict" and facts.known and not facts.supports_schema else dialect

    def _schema_text(self, call: Call, model: ModelConfig) -> str:
        schema = call.output.wire(self.dialect(model)).schema if call.output else None
        return json.dumps(schema) if schema is not None else ""

    def _dropped(self, call: Call, one: Selected) -> tuple[str, ...]:
        target = Target(model=one.model, provider=one.provider, api_base=None)
        given = {"temperature": call.temperature, "stop": list(call.stop) or None, "seed": call.seed}
        params = {name: value for name, value in given.items() if value is not None}
        return self.gateway.dropped_params(target, params)
