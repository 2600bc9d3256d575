"""What the calls of one manager share: prices, keys, limits, local models and the gateway."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from testronaut_llm.config.secrets import secret_parts
from testronaut_llm.errors import AuthenticationError, PermissionDeniedError
from testronaut_llm.gateway.gateway import Gateway
from testronaut_llm.gateway.model_request import Target
from testronaut_llm.limits.rate_limiter import RateLimiter, Ticket
from testronaut_llm.limits.rules import key_of, rules_of
from testronaut_llm.local.bench import SpeedHistory
from testronaut_llm.local.local_models import LocalModels
from testronaut_llm.loop import Loop
from testronaut_llm.money.budgets import Budgets
from testronaut_llm.money.price_rows import service_of
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.money.token_counter import TokenCounter
from testronaut_llm.providers.credentials import Credentials
from testronaut_llm.providers.provider_registry import (
    Probes,
    Readiness,
    api_base_of,
    api_version_of,
    provider_of,
    readiness,
)
from testronaut_llm.providers.row import STRICT_DIALECTS
from testronaut_llm.routing.cost_optimizer import plan
from testronaut_llm.routing.limits import with_limits
from testronaut_llm.routing.options import READY, Option, Scale
from testronaut_llm.telemetry.log import logger

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, ModelConfig
    from testronaut_llm.money.ledger import Ledger
    from testronaut_llm.records import Attempt, Call, Candidate, Message, Result, Route
    from testronaut_llm.routing.task_router import Selected
    from testronaut_llm.schema.output_schema import SchemaDialect, WireSchema
    from testronaut_llm.telemetry.redaction import Redactor
    from testronaut_llm.telemetry.telemetry import Telemetry

_SHORT = 8000  # characters whose tokens are counted within a millisecond or two
_SETTINGS = 200  # characters of `extra` that hold no documents

NOWHERE = "http://127.0.0.1:9"
"""Nothing listens there. Cassettes know loopback without its port, so replays match all the same."""
AZURE = "https://resource.openai.azure.com"
"""What cassettes make of the host of any Azure resource."""


class Services:
    """The rooms of one manager, as its calls use them.

    Args:
        config: returns the configuration as it is now.
        redactor: removes secrets from texts.
        telemetry: gets the events.
        probes: what was seen of each model.
        ledger: the books.
        gateway: sends requests in place of LiteLLM; for tests.
        offline: True if no server is asked and no key is needed, since answers come from elsewhere.
    """

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
        self.redactor, self.telemetry, self.probes, self.ledger = redactor, telemetry, probes, ledger
        self.prices = PriceTable.load()
        self.counter = TokenCounter()
        self.credentials = Credentials()
        self.budgets = Budgets(ledger)
        self.limiter = RateLimiter()
        self.speeds = SpeedHistory()
        self.local = LocalModels(config, probes, telemetry.happened)
        self.gateway = gateway or Gateway(redactor.redact)
        self.loop = Loop(self.gateway.aclose)
        self._offline = self.local.repeatable = offline
        self._routed: set[tuple[str, str]] = set()
        self._doubted: set[str] = set()

    def ready(self, model: ModelConfig) -> Readiness:
        """Returns whether this model can be asked now, and if not, what is missing."""
        return Readiness(ready=True) if self._offline else readiness(model, probes=self.probes)

    def dialect(self, model: ModelConfig) -> SchemaDialect:
        """Returns which JSON Schema the model takes: its provider's, or none where the tables know it for too old."""
        dialect, facts = provider_of(model).schema_dialect, self.prices.facts(model)
        if dialect in STRICT_DIALECTS and facts.known and not facts.supports_schema:
            return "none"
        # OpenAI takes no bounds for fine-tuned models.
        return "strict" if dialect == "openai" and model.name.startswith("ft:") else dialect

    def wire_schema(self, call: Call, model: ModelConfig) -> WireSchema | None:
        """Returns the schema of a call as the model takes it; None without a schema."""
        return call.output.wire(self.dialect(model)) if call.output else None

    def prompt_bound(self, call: Call, model: ModelConfig, turns: tuple[Message, ...]) -> int:
        """Returns the most tokens that a prompt can have: its turns, its schema, and documents in `extra`."""
        schema = self.wire_schema(call, model)
        beside = json.dumps(schema.schema) if schema and schema.schema is not None else ""
        extra = json.dumps({**model.extra, **call.extra}, default=str)
        return self.counter.upper_bound(turns, beside + (extra if len(extra) > _SETTINGS else ""))

    def route(self, call: Call, *, dry: bool = False) -> Route:
        """Returns which models to ask, in which order, and why.

        A dry run counts the models that cannot be asked, too, and once LiteLLM is loaded, what each would leave out.
        """
        most = 0 if call.texts else call.max_tokens
        route = plan(
            call.settings,
            self._options(call, dry=dry),
            max_tokens=most,
            money=self.budgets.money(call),
            schema=call.output is not None,
            strategy="as_listed" if call.texts else None,
        )
        self._routed.update((one.alias, one.model) for one in route.candidates)
        return with_limits(route, call.config, self.limiter, most) if dry else route

    def cold_route(self, call: Call) -> Route:
        """Returns the route, and does what may take long: servers are asked, LiteLLM is loaded."""
        route = self.route(call)
        if route.kept:
            self.gateway.load()
            for one in call.selected:
                self.local.look(one.model)
        return route

    def learn(self, call: Call, result: Result, route: Route) -> None:
        """Takes note of the tokens that an accepted answer reports, for the next estimates."""
        asked = next(one for one in route.candidates if one.alias == result.model)
        if self._offline:
            return
        if len(result.attempts) == 1 and asked.est_tokens is not None:  # a repair's prompt is not the one estimated
            self.counter.observe(call.task, call.config.model(result.model), asked.est_tokens, result.usage)

    def is_warm(self, call: Call) -> bool:
        """True if `route` takes a fraction of a millisecond: all is loaded, no server is asked, the prompt is short."""
        return sum(len(message.content) for message in call.messages) <= _SHORT and all(
            (one.model.alias, one.model.model) in self._routed
            and self.probes.remembers(one.model, one.provider)
            and self.local.remembers(one.model)
            for one in call.candidates
        )

    def ticket(self, call: Call, candidate: Candidate, answer_tokens: int) -> Ticket:
        """Returns an attempt's place in line for the rate limits of its model."""
        model = call.config.model(candidate.alias)
        tokens = (candidate.est_tokens or 0) + answer_tokens
        if self._offline:
            return Ticket(self.limiter, (), tokens)  # its turn comes at once
        return self.limiter.ticket(rules_of(call.config, model), key_of(model), tokens)

    def target(self, model: ModelConfig, *, embeddings: bool = False) -> Target:
        """Returns where a model is asked and with which key. May start a local model, or run a command.

        Raises:
            MissingCredentialError: there is no key.
            LocalModelError: the local model cannot be served.
        """
        provider = provider_of(model)
        if self._offline:
            return _stand_in(model)
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

    def attempted(self, call: Call, attempt: Attempt) -> None:
        """Takes note of an attempt that has ended."""
        if isinstance(attempt.error, AuthenticationError | PermissionDeniedError):
            self.credentials.forget()  # a command may print a newer key
        self.telemetry.attempt(call, attempt)

    def dropped_params(self, model: ModelConfig, given: dict[str, Any]) -> tuple[str, ...]:
        """Returns which settings a model is asked without, since it does not take them. May ask an Ollama server."""
        provider = provider_of(model)
        dropped = self.gateway.dropped_params(Target(model=model, provider=provider, api_base=None), given)
        if provider.wire == "ollama" and model.reasoning not in (None, "off"):
            self.probes.ask(model, provider)
            if self.local.thinks(model) is False:
                dropped += ("reasoning",)
        return tuple(dropped)

    def warn_of_usage(self, alias: str, counts: tuple[str, ...]) -> None:
        """Warns once of a model whose server reports impossible token counts."""
        if alias not in self._doubted:
            self._doubted.add(alias)
            fault = f"{', '.join(counts)} of its answer cannot be right, so its tokens and cost are estimates"
            mend = "check the server behind `api_base`, and the bill of the provider"
            logger().warning("usage_impossible", model=alias, fault=fault, mend=mend)

    def warm_up(self, models: list[ModelConfig]) -> None:
        """Loads LiteLLM, and local models into memory. May take minutes."""
        self.gateway.load()
        for model in models:
            self.local.load(model)

    def close(self) -> None:
        """Ends what runs, closes connections, and ends embedded models."""
        self.loop.close()
        self.local.close()
        self.counter.close()
        self.credentials.close()

    def _options(self, call: Call, *, dry: bool) -> list[Option]:
        scale = Scale(
            task=call.task,
            messages=call.messages,
            max_tokens=call.max_tokens,
            prices=self.prices,
            counter=self.counter,
            count_all=dry,
            embedding=bool(call.texts),
        )
        return [self._weighed(call, scale, one, dry=dry) for one in call.selected]

    def _weighed(self, call: Call, scale: Scale, one: Selected, *, dry: bool) -> Option:
        ready = self.ready(one.model) if one.excluded is None else READY  # asks the server, and so goes first
        schema, seen = self.wire_schema(call, one.model), self.probes.seen(one.model, one.provider)
        given = {"temperature": call.temperature, "stop": list(call.stop) or None, "seed": call.seed}
        params = {name: value for name, value in given.items() if value is not None}
        return scale.weigh(
            one,
            ready,
            schema=json.dumps(schema.schema) if schema is not None and schema.schema is not None else "",
            bound=self.prompt_bound(call, one.model, call.messages),
            service=service_of({**one.model.extra, **call.extra}) or "",
            context=seen.context if seen else None,
            speed=self.speeds.latest(one.model) if one.provider.local else None,
            dropped_params=self.dropped_params(one.model, params) if dry and "litellm" in sys.modules else (),
        )


def _stand_in(model: ModelConfig) -> Target:
    """The model's own address, or one that cassettes know, where its address is not known here."""
    provider = provider_of(model)
    base = api_base_of(model, provider)
    if provider.name == "embedded":
        base = f"{NOWHERE}/v1"
    elif base is None or "${" in base:
        base = AZURE if provider.wire == "azure" else NOWHERE
    return Target(model=model, provider=provider, api_base=base, api_version=api_version_of(model, provider))
