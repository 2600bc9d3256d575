"""Shared by the calls of one manager: prices, keys, limits, local models and the gateway."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from testronaut_llm.config.problems import secret_parts
from testronaut_llm.errors import AuthenticationError, PermissionDeniedError
from testronaut_llm.gateway.gateway import Gateway
from testronaut_llm.gateway.model_request import Target
from testronaut_llm.limits.rate_limiter import RateLimiter, Ticket
from testronaut_llm.limits.rules import key_of, rules_of
from testronaut_llm.local.download import reported
from testronaut_llm.local.local_models import LocalModels
from testronaut_llm.local.model_store import SpeedHistory
from testronaut_llm.local.readiness import Probes, Readiness, readiness
from testronaut_llm.loop import Loop
from testronaut_llm.money.budgets import Budgets
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.money.token_counter import TokenCounter
from testronaut_llm.providers.credentials import Credentials
from testronaut_llm.providers.provider import STRICT_DIALECTS, endpoint_of
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.routing.cost_optimizer import plan, with_limits
from testronaut_llm.routing.task_router import READY, Scale
from testronaut_llm.telemetry.log import logger

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, ModelConfig
    from testronaut_llm.money.budgets import Money
    from testronaut_llm.money.ledger import Ledger
    from testronaut_llm.records import Attempt, Call, Candidate, Result, Route
    from testronaut_llm.schema.output_schema import SchemaDialect, WireSchema
    from testronaut_llm.telemetry.redaction import Redactor
    from testronaut_llm.telemetry.telemetry import Telemetry

_SHORT = 8000  # characters whose tokens are counted within a millisecond or two

NOWHERE = "http://127.0.0.1:9"
"""No server listens there. Cassettes store loopback without its port, so replays match."""
AZURE = "https://resource.openai.azure.com"
"""Replacement for the host of any Azure resource in cassettes."""


class Services:
    """The parts of one manager; `gateway` and `offline` as in `LLMManager`."""

    def __init__(
        self,
        config: Callable[[], LLMConfig],
        redactor: Redactor,
        telemetry: Telemetry,
        probes: Probes,
        ledger: Ledger,
        gateway: Any = None,
        *,
        offline: bool = False,
    ) -> None:
        self.redactor, self.telemetry, self.probes = redactor, telemetry, probes
        self.prices = PriceTable.load()
        self.counter = TokenCounter()
        self.credentials = Credentials()
        self.budgets = Budgets(ledger)
        self.limiter = RateLimiter()
        self.speeds = SpeedHistory()
        self.local = LocalModels(config, probes, telemetry.happened)
        self.gateway = gateway or Gateway(redactor.redact)
        self.loop = Loop(self.gateway.aclose)
        self.offline = self.local.repeatable = offline
        self._routed: set[tuple[str, str]] = set()
        self._doubted: set[str] = set()

    def route(
        self, call: Call, *, dry: bool = False, money: Money | None = None, ready: dict[str, Readiness] | None = None
    ) -> Route:
        """Returns the models to ask, in order, with reasons.

        A dry run also counts tokens for models that cannot be asked, and, if LiteLLM is loaded, settings not sent.
        If many calls are routed at one moment, `money` is for each, and `ready` keeps what is known, by alias.
        """
        money, known = money or self.budgets.money(call), {} if ready is None else ready
        scale = Scale(call=call, prices=self.prices, counter=self.counter, money=money, count_all=dry)
        weighed = []
        for one in call.selected:
            weighed.append(self._weighed(scale, one, known))
            self._routed.add((one.alias, one.model))
        route = plan(call.task, "as_listed" if call.texts else call.settings.strategy, weighed, money)
        return with_limits(route, call.config, self.limiter, 0 if call.texts else call.max_tokens) if dry else route

    def _weighed(self, scale: Scale, one: Candidate, known: dict[str, Readiness]) -> Candidate:
        call, row, provider = scale.call, one.row, one.provider_row
        dropped: tuple[str, ...] = ()
        if (ready := READY if self.offline or not one.kept else known.get(one.alias)) is None:
            ready = known[one.alias] = readiness(row, probes=self.probes)  # first: asks the server
        seen = self.probes.seen(row, provider)
        if scale.count_all and "litellm" in sys.modules:
            given = {"temperature": call.temperature, "stop": list(call.stop) or None, "seed": call.seed}
            dropped = self.dropped_params(row, {name: value for name, value in given.items() if value is not None})
        return scale.weigh(
            one,
            ready,
            schema=self.wire_schema(call, one),
            context=seen.context if seen is not None else None,
            speed=self.speeds.latest(row) if provider.local else None,
            dropped_params=dropped,
        )

    async def routed(self, call: Call) -> Route:
        """Returns the same on the event loop: in a thread if that may take more than a millisecond."""
        warm = sum([len(message.content) for message in call.messages]) <= _SHORT
        for one in call.candidates:
            warm = warm and (one.alias, one.model) in self._routed
            warm = warm and self.probes.remembers(one.row, one.provider_row)
        return self.route(call) if warm else await asyncio.to_thread(self._cold_route, call)

    def _cold_route(self, call: Call) -> Route:
        """Asks servers, and loads LiteLLM."""
        route = self.route(call)
        if route.kept:
            with reported("loading LiteLLM", "seconds"):
                self.gateway.load()
        return route

    def dialect(self, one: Candidate) -> SchemaDialect:
        """Returns the schema dialect of the model: its provider's, or `none` if the tables say it supports none."""
        dialect, facts = one.provider_row.schema_dialect, self.prices.facts(one.row)
        if dialect in STRICT_DIALECTS and facts.known and not facts.supports_schema:
            return "none"
        # OpenAI takes no bounds for fine-tuned models.
        return "strict" if dialect == "openai" and one.row.name.startswith("ft:") else dialect

    def wire_schema(self, call: Call, one: Candidate) -> WireSchema | None:
        """Returns the schema of a call in the form for the model; None without a schema."""
        return call.output.wire(self.dialect(one)) if call.output is not None else None

    def ticket(self, call: Call, candidate: Candidate, answer_tokens: int) -> Ticket:
        """Returns an attempt's place in the queue for the rate limits of its model."""
        row, tokens = candidate.row, (candidate.est_tokens or 0) + answer_tokens
        if self.offline:
            return Ticket(self.limiter, (), tokens)  # its turn comes at once
        return self.limiter.ticket(rules_of(call.config, row), key_of(row), tokens)

    def target(self, one: Candidate, *, embeddings: bool = False) -> Target:
        """Returns the endpoint and the key of a model. May start a local model, or run a command.

        Raises:
            MissingCredentialError: the key is missing.
            LocalModelError: the local model cannot be served.
        """
        row, provider = one.row, one.provider_row
        base, _, version = endpoint_of(row, provider)
        if self.offline:  # for an unknown address, the one in cassettes
            if provider.name == "embedded":
                base = f"{NOWHERE}/v1"
            elif base is None or "${" in base:
                base = AZURE if provider.wire == "azure" else NOWHERE
            return Target(model=row, provider=provider, api_base=base, api_version=version)
        if provider.name == "embedded":
            endpoint = self.local.serve(row, embeddings=embeddings)
            self.redactor.add(endpoint.token)
            return Target(model=row, provider=provider, api_base=endpoint.api_base, key=SecretStr(endpoint.token))
        key = self.credentials.key(row, provider)
        if isinstance(key, SecretStr):
            self.redactor.add(key.get_secret_value())
        for text in (*row.environment_texts, *secret_parts(base or "")):
            self.redactor.add(text)
        thinks = self.local.thinks(row) if provider.wire == "ollama" else None
        return Target(model=row, provider=provider, api_base=base, api_version=version, key=key, thinks=thinks)

    def attempted(self, call: Call, attempt: Attempt) -> None:
        """Reports an attempt that has ended."""
        if isinstance(attempt.error, AuthenticationError | PermissionDeniedError):
            self.credentials.forget()  # a command may print a newer key
        self.telemetry.attempt(call, attempt)

    def observe(self, call: Call, one: Candidate, result: Result) -> None:
        """Improves token estimates by the usage of an answer to a single request, without repairs."""
        if len(result.attempts) == 1 and one.est_tokens is not None and not self.offline:
            self.counter.observe(call.task, one.row, one.est_tokens, result.usage)

    def dropped_params(self, row: ModelConfig, given: dict[str, Any]) -> tuple[str, ...]:
        """Returns settings that are not sent, since the model does not support them. May ask an Ollama server."""
        provider = provider_of(row)
        dropped = tuple(self.gateway.dropped_params(Target(model=row, provider=provider, api_base=None), given))
        if provider.wire == "ollama" and row.reasoning not in (None, "off"):
            self.probes.ask(row, provider)
            if self.local.thinks(row) is False:
                dropped += ("reasoning",)
        return dropped

    def warn_of_usage(self, alias: str, counts: tuple[str, ...]) -> None:
        """Warns once of a model whose server reports impossible token counts."""
        if alias not in self._doubted:
            self._doubted.add(alias)
            problem = f"{', '.join(counts)} of its answer are impossible, so its tokens and cost are estimates"
            fix = "check the server behind `api_base`, and the bill of the provider"
            logger().warning("usage_impossible", model=alias, error=problem, fix=fix)

    def close(self) -> None:
        """Cancels calls, closes connections, and stops embedded models."""
        for part in (self.loop, self.local, self.credentials):
            part.close()
