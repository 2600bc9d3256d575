"""The pydantic classes of `llm.yaml`. The sentence under a field is its description in the reference page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, field_serializer, model_validator

from testronaut_llm.config.draft import examine
from testronaut_llm.config.problems import FromEnvironment, Source, of_pydantic, public, quoted, texts
from testronaut_llm.config.sections import (
    REFERENCE,
    BudgetConfig,
    CacheConfig,
    CacheMode,
    Count,
    ErrorCodes,
    Flag,
    Grade,
    KeepAlive,
    LimitConfig,
    LogConfig,
    Names,
    Native,
    PlainJson,
    PriceConfig,
    Reference,
    Seconds,
    Secrets,
    Section,
    VariableName,
    Whole,
)
from testronaut_llm.config.trust import limited, untrusted
from testronaut_llm.errors import ConfigError, UnknownTaskError
from testronaut_llm.support.text import did_you_mean

Strategy = Literal["cheapest", "as_listed", "local_first", "balanced", "cascade"]
Reasoning = Literal["off", "low", "medium", "high"]


class ModelConfig(Section):
    """One model: how to reach it, and facts about it."""

    alias: str = Field(exclude=True)
    """The user's name for it: the key of its section."""
    unset: tuple[str, ...] = Field(default=(), exclude=True)
    """Unset variables that its section refers to; the model is not ready while there is one."""
    trusted: bool = Field(default=True, exclude=True)
    """False in a file that was found by walking upwards and that `testronaut-llm trust` does not know."""
    withheld: tuple[str, ...] = Field(default=(), exclude=True)
    """Settings of its section without effect until the file is trusted; the model is not ready while there is one."""

    model: Reference
    """Provider and model, such as `openai/gpt-6-luna` or `ollama/qwen3:8b`; for Azure, the deployment's name."""
    api_base: str | None = None
    """URL of the server (default: the provider's own, or the value of its usual variable)."""
    api_version: str | None = None
    """Azure: `v1`, or the date of a classic API version such as `2024-10-21`."""
    base_model: str | None = None
    """Azure: the model behind the deployment; it sets price, window and tokenizer."""
    api_key_env: VariableName | None = None
    """Name of the environment variable that holds the key (default: the provider's usual one)."""
    api_key_file: str | None = None
    """File that holds the key and nothing else, mode 0600; a relative path starts at the folder of this file."""
    api_key_command: str | None = None
    """Command that prints the key, such as `pass show openai`."""
    quality: Grade = 5
    """Your rating of the model, 1 to 10; a task's `min_quality` is compared with it."""
    price: PriceConfig | None = None
    """Price (default: from the price tables)."""
    context_window: Count | None = None
    """Tokens of prompt and answer together (default: from the tables, or from a local server)."""
    max_output: Count | None = None
    """Longest answer, in tokens (default: from the tables)."""
    num_ctx: Count | None = None
    """Local: context window to load the model with, in tokens (default: sized to tasks and prompt)."""
    keep_alive: KeepAlive = None
    """Local: how long it stays loaded: `10m`, seconds, 0 to unload at once, negative: without end."""
    digest: Annotated[str, Field(pattern=r"^(sha256:)?[0-9a-f]{6,64}$")] | None = None
    """Local: sha256 that the model must have, or the first six or more digits of it."""
    auto_pull: Annotated[Literal[True, False, "ask"], Native] = False
    """Local: fetch the model if it is missing: `true`, `false`, or `ask` at a terminal."""
    reasoning: Reasoning | None = None
    """Reasoning before the answer: `off`, `low`, `medium`, `high` (default: the provider's)."""
    local: Flag | None = None
    """`private` tasks may use it (default: true for a model server on loopback, else false)."""
    dimensions: Count | None = None
    """Embeddings: length of the vectors."""
    limits: LimitConfig | None = None
    """Requests and tokens per minute, and concurrent requests, of this model."""
    extra: PlainJson = Field(default_factory=dict)
    """Further body fields for the provider, or options of a local model; fields that this package sets are an error."""

    @cached_property
    def provider(self) -> str:
        """The part of `model` before the first slash: `openai`."""
        return self.model.partition("/")[0]

    @cached_property
    def name(self) -> str:
        """The part of `model` after the first slash: `gpt-6-luna`."""
        return self.model.partition("/")[2]

    @cached_property
    def settings(self) -> tuple[Any, ...]:
        """All fields of its section that can be hashed: without `extra`."""
        values = (getattr(self, field) for field in type(self).model_fields)
        return tuple(value for value in values if type(value).__hash__ is not None)

    @property
    def environment_texts(self) -> tuple[str, ...]:
        """Texts in `extra` that came from the environment; they are treated as secrets."""
        return tuple(str(text) for text in texts(self.extra) if isinstance(text, FromEnvironment))

    @model_validator(mode="after")
    def _one_source_of_the_key(self) -> ModelConfig:
        given = [f for f in ("api_key_env", "api_key_file", "api_key_command") if getattr(self, f) is not None]
        if len(given) > 1:
            raise ValueError(f"takes its key from {' and '.join(given)}: keep one of them")
        return self

    @field_serializer("api_base", "api_key_command", "extra")
    def _public(self, value: Any, info: Any) -> Any:
        return public(info.field_name, value)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Returns the fields that were set, without those that may hold a secret."""
        for field in sorted(self.model_fields_set, key=list(type(self).model_fields).index):
            yield field, public(field, getattr(self, field))


class TaskConfig(Section):
    """The models of a task, and how they are asked."""

    name: str = Field(exclude=True)
    """The task's name; in the file, the key of its section."""

    models: Annotated[Names, Field(min_length=1)]
    """Candidates in your order: names from `models`, or `provider/model`; a single name needs no list."""
    strategy: Strategy = "cheapest"
    """Order of the attempts: `cheapest`, `as_listed`, `local_first`, `balanced` or `cascade`."""
    min_quality: Grade = 1
    """Models of a lower `quality` are not used for this task."""
    max_tokens: Count = 4096
    """Longest answer, in tokens; always sent (default: 4096)."""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False), Native] = 0.0
    """0 to 2; sent to the models that support it (default: 0)."""
    stop: Names = ()
    """Texts that end the answer."""
    seed: Whole | None = None
    """Seed, for models that support one."""
    system: str | None = None
    """System text put before each prompt of this task."""
    timeout: Seconds | None = None
    """Seconds for one attempt (default: 120, local models 600)."""
    deadline: Seconds = 900.0
    """Seconds for the whole call: waits, retries and fallbacks included (default: 900)."""
    retries: Annotated[int, Field(ge=0, le=20), Native] = 2
    """Retries of one model after a temporary failure (default: 2)."""
    fallback_on: ErrorCodes = ()
    """Error codes, such as `content_filter`, after which the next model is asked, though they would stop the call."""
    allow_truncated: Flag = False
    """Accept an answer that was cut at `max_tokens` (default: false)."""
    private: Flag = False
    """The text must stay on this machine: local models only (default: false)."""
    cache: CacheMode = "use"
    """`use`, `refresh` (ask again and store), `off` (neither read nor store), or `only` (never ask)."""
    secrets: Secrets | None = None
    """`mask`, `refuse` or `allow` secrets in its prompts, for all its models (default: as the file's `secrets`)."""
    prompt_cache: Flag = False
    """Let Anthropic cache the system text for some minutes: cheaper from the second call on (default: false)."""
    budget: BudgetConfig | None = None
    """Limits of this task alone, in USD; the file's `budget` applies as well."""
    optional: Flag = False
    """`check` succeeds even if no model can run this task (default: false)."""

    @model_validator(mode="after")
    def _one_scope(self) -> TaskConfig:
        if self.budget and self.budget.scope is not None:
            raise ValueError("`scope` belongs to the `budget` of the whole file, not of a task")
        return self


class LLMConfig(Section):
    """All of `llm.yaml`, or the same written in Python: `LLMConfig(models={...}, tasks={...})`.

    Raises ConfigError with every problem, and the line of each if there is a file.
    """

    version: Literal[1] = 1
    """Version of this file's format."""
    models: Mapping[str, ModelConfig] = Field(default_factory=dict)
    """Your names of models, each with how to reach it."""
    tasks: Mapping[str, TaskConfig]
    """Tasks and their models; a call without a task uses `default`."""
    budget: BudgetConfig | None = None
    """Limits of all tasks together, in USD."""
    cache: CacheConfig = Field(default_factory=CacheConfig)
    """Lifetime of stored answers, and size of the store."""
    limits: Mapping[str, LimitConfig] = Field(default_factory=dict)
    """Requests and tokens per minute, and concurrent requests, of a provider or of an endpoint URL."""
    secrets: Secrets | None = None
    """Secrets in prompts: `mask` them, `refuse` the call, or `allow` them (default: `mask`; local models `allow`)."""
    log: LogConfig | None = None
    """Telemetry as a file of JSON lines (default: none)."""

    _path: Path | None = PrivateAttr(default=None)
    _place: str | None = PrivateAttr(default=None)
    _trusted: bool = PrivateAttr(default=True)
    _ignored: tuple[str, ...] = PrivateAttr(default=())
    _waiting: tuple[str, ...] = PrivateAttr(default=())

    @property
    def path(self) -> Path | None:
        """Path of its file; None if it was written in Python."""
        return self._path

    @property
    def trusted(self) -> bool:
        """False for a file that was found by walking upwards and that `testronaut-llm trust` does not know."""
        return self._trusted

    @property
    def ignored(self) -> tuple[str, ...]:
        """Settings outside `models` that have no effect in a file that is not trusted, such as `log`."""
        return self._ignored

    def budget_scope(self) -> str | None:
        """Returns the scope of the budget: its `scope`, or the file's resolved path; None without either."""
        if self.budget and self.budget.scope:
            return self.budget.scope
        return self._place

    def model(self, reference: str) -> ModelConfig:
        """Returns the model of an alias, or of `provider/model`. Raises ConfigError, which names the closest alias."""
        if reference in self.models:
            return self.models[reference]
        if REFERENCE.fullmatch(reference) or (not self._trusted and "${" in reference):
            model = ModelConfig(alias=reference, model=reference)
            return model if self._trusted else untrusted(model, self._waiting)
        raise ConfigError(f"unknown model {quoted(reference)}{did_you_mean(reference, self.models)}")

    def task(self, name: str | None) -> TaskConfig:
        """Returns the task of that name; None means `default`. Raises UnknownTaskError, which names the closest one."""
        wanted = "default" if name is None else name
        if task := self.tasks.get(wanted):
            return task
        near = did_you_mean(wanted, self.tasks)
        known = f" (known: {', '.join(self.tasks)})" if "did you mean" in near else ""
        file = str(self.path) if self.path else None
        add = f"; or add `{wanted}: {{models: [...]}}` under `tasks:`" + (f" in {file}" if file else "")
        raise UnknownTaskError(f"unknown task {wanted!r}{near}{known}{add}", file=file)

    @model_validator(mode="wrap")
    @classmethod
    def _with_all_problems(cls, data: Any, shaped: Callable[[Any], LLMConfig], info: ValidationInfo) -> LLMConfig:
        if isinstance(data, cls):
            return data
        source = info.context if isinstance(info.context, Source) else Source()
        draft, problems, unfilled = examine(data, source)
        try:
            config = shaped(draft)
        except ValidationError as error:
            known = {problem.where for problem in problems}
            problems += (one for one in (of_pydantic(e, cls) for e in error.errors()) if one.where not in known)
            raise source.error(problems) from None
        if problems:
            raise source.error(problems)
        config._path = source.path  # noqa: SLF001 - of this class
        config._place = str(source.path.resolve()) if source.path else None  # noqa: SLF001
        if not source.trusted:
            config, ignored, waiting = limited(config, unfilled)
            config._trusted, config._ignored, config._waiting = False, tuple(ignored), tuple(waiting)  # noqa: SLF001
        return config
