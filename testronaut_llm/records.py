"""The frozen values of a call: arguments, routes, attempts and results."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, KeysView, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeAlias

from typing_extensions import TypeForm, TypeVar

from testronaut_llm.errors import LLMError
from testronaut_llm.masking import NOTHING, Masking
from testronaut_llm.support.text import exact

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig
    from testronaut_llm.config.sections import CacheMode, Secrets
    from testronaut_llm.providers.provider import Provider
    from testronaut_llm.schema.output_schema import OutputSchema

T = TypeVar("T", default=None)
_Any_co = TypeVar("_Any_co", covariant=True)

Role = Literal["system", "user", "assistant"]


class JsonSchema(Protocol[_Any_co]):
    """A JSON Schema (a mapping), for type checkers: they give `.parsed` of its answer the type Any."""

    def keys(self) -> KeysView[str]: ...
    def __getattribute__(self, name: str, /) -> _Any_co: ...


Schema: TypeAlias = TypeForm[Any] | JsonSchema[Any] | None
"""Type of the option `schema`: a pydantic class or another type, or a JSON Schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of the conversation; text only.

    >>> llm.complete("cli_analysis", [Message(role="user", content="What is ls?")]).text
    'It lists files.'
    """

    role: Role
    content: str


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True, eq=False)
class Call:
    """One checked call, with the settings of its task filled in.

    Attributes:
        settings: settings of the task when the call began; `config` is the whole file at that time.
        selected: the models of the task, in their listed order; `candidates` are those that no rule excludes.
        texts: texts to embed; empty for a chat.
        masking: the secrets of `messages`, which hold placeholders for them.
        timeout: seconds for one attempt; None is the model's default.
        deadline: seconds for the whole call, from `started` on.
        max_cost: USD for all attempts together.
        started: seconds on the monotonic clock.
        id: the same in all events of the call.
    """

    task: str
    settings: TaskConfig
    config: LLMConfig
    selected: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    messages: tuple[Message, ...]
    max_tokens: int
    deadline: float
    texts: tuple[str, ...] = ()
    output: OutputSchema | None = None
    accept: Accept | None = None
    model: str | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    cache: CacheMode = "use"
    sample: int = 0
    max_cost: Decimal | None = None
    timeout: float | None = None
    stream: bool = False
    logprobs: bool = False
    masking: Masking = NOTHING
    extra: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    id: str = field(default_factory=lambda: os.urandom(8).hex())

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.started + self.deadline - time.monotonic()

    def with_texts(self, texts: Sequence[str]) -> Call:
        """Returns the same call with other texts to embed."""
        return replace(self, texts=tuple(texts), messages=tuple([Message(role="user", content=one) for one in texts]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one attempt. `prompt_tokens` includes cached and cache-written ones.

    `estimated` is True if the provider reported no usage and the numbers are estimates.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    @property
    def uncached_tokens(self) -> int:
        """Prompt tokens at the full input price; never negative."""
        return max(0, self.prompt_tokens - self.cached_tokens - self.cache_write_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model of a task, and the result of routing for it.

    Attributes:
        kept: False if a rule of the task excludes it or routing dropped it; `reason` says why.
        est_tokens: estimated tokens of the prompt; `est_completion_tokens` of the answer.
        est_cost: expected cost in USD; `worst_cost` is the highest possible one. None if no price is known.
        context_window: size in tokens; None if unknown.
        est_seconds: expected seconds of a local model that `models bench` has measured on this machine.
        secrets: what is done with secrets in its prompts: `mask`, `refuse` or `allow`.
        problem: error code if it was dropped (`no_ready_model`, `connection_failed`, `context_window`,
            `budget_exceeded`), or None.
        limits: the rate limits that apply to it; only in a dry run.
        row: its row of `llm.yaml`; `provider_row` is the row of its provider.
    """

    alias: str
    model: str
    provider: str
    quality: int
    local: bool = False
    secrets: Secrets = "mask"
    kept: bool = True
    reason: str = ""
    est_tokens: int | None = None
    est_completion_tokens: int | None = None
    est_cost: Decimal | None = None
    worst_cost: Decimal | None = None
    cost_source: str | None = None
    context_window: int | None = None
    est_seconds: float | None = None
    dropped_params: tuple[str, ...] = ()
    problem: str | None = None
    limits: tuple[str, ...] = ()
    row: ModelConfig = field(repr=False, compare=False)
    provider_row: Provider = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """All candidates of a task, in the order in which they would be tried, dropped ones last.

    >>> [one.alias for one in llm.route("cli_analysis", "What is ls?").kept]
    ['fake']
    """

    task: str
    strategy: str
    candidates: tuple[Candidate, ...]

    @property
    def kept(self) -> tuple[Candidate, ...]:
        """The candidates that would be tried, in order."""
        return tuple(c for c in self.candidates if c.kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request to one model, or why none was sent. `latency` is in seconds, `cost` in USD.

    `waited` is the seconds that it waited before it was sent, for a retry or a rate limit.
    """

    model: str
    provider_model: str
    outcome: Literal["answer", "error", "rejected"]
    error: LLMError | None = None
    waited: float = 0.0
    latency: float = 0.0
    usage: Usage | None = None
    cost: Decimal | None = None
    finish_reason: str | None = None
    request_id: str | None = None
    reason: str = ""
    dropped_params: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChoice:
    """One token of an answer: its log-probability, and those of the most likely alternatives."""

    token: str
    logprob: float
    others: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[T]):
    """An accepted answer. `parsed` has the type of the call's `schema`, Any for a JSON Schema, None without one.

    `cost` is USD for all attempts together; None if the price of one is unknown. `saved` is the USD that a cache hit
    saved. `latency` is the seconds of the whole call. `masked` is the number of secrets replaced in the prompt.

    >>> answer = llm.complete("cli_analysis", "What is ls?")
    >>> answer.text, answer.model, answer.cost, answer.cached, answer.finish_reason
    ('It lists files.', 'fake', Decimal('0'), False, 'stop')
    """

    text: str
    model: str
    provider_model: str
    response_model: str
    task: str
    usage: Usage
    cost: Decimal | None = None
    cost_source: str | None = None
    saved: Decimal | None = None
    cached: bool = False
    attempts: tuple[Attempt, ...] = ()
    finish_reason: str = "stop"
    latency: float = 0.0
    request_id: str | None = None
    parsed: T = None  # type: ignore[assignment]  # the default of T
    logprobs: tuple[TokenChoice, ...] = ()
    masked: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """One vector per text, in the order of the texts.

    >>> found = llm.embed("embedding", "ls")
    >>> len(found.vectors), found.model
    (1, 'fake')
    """

    vectors: tuple[tuple[float, ...], ...]
    model: str
    provider_model: str
    task: str
    usage: Usage
    cost: Decimal | None = None
    cost_source: str | None = None
    saved: Decimal | None = None
    cached: bool = False
    attempts: tuple[Attempt, ...] = ()
    latency: float = 0.0
    request_id: str | None = None
    masked: int = 0


Result = Answer[Any] | Embeddings


def merged(parts: Sequence[Embeddings]) -> Embeddings:
    """Returns the results of several requests of one call as one."""
    last, usages = parts[-1], [one.usage for one in parts]
    made = tuple([attempt for one in parts for attempt in one.attempts])
    tokens, estimated = sum([one.prompt_tokens for one in usages]), any(one.estimated for one in usages)
    vectors = tuple([vector for one in parts for vector in one.vectors])
    usage = replace(last.usage, prompt_tokens=tokens, estimated=estimated)
    return replace(last, vectors=vectors, attempts=made, cost=total_cost(made), usage=usage)


Accept = Callable[[Answer[Any]], bool]


@exact
def known_cost(attempts: Iterable[Attempt | Answer[Any]]) -> Decimal:
    """Returns the USD of all attempts whose price is known."""
    return sum((one.cost for one in attempts if one.cost is not None), Decimal(0))


def total_cost(attempts: Sequence[Attempt | Answer[Any]]) -> Decimal | None:
    """Returns the USD of all attempts together; None if the price of one is unknown."""
    return None if any(one.cost is None for one in attempts) else known_cost(attempts)
