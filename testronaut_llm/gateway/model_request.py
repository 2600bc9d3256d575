"""What the gateway is asked and what it answers: one attempt at one model, as values, and in LiteLLM's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from testronaut_llm.config.local_options import SAMPLING, sorted_options
from testronaut_llm.errors import InvalidRequestError, LLMError
from testronaut_llm.gateway.usage import Counts
from testronaut_llm.local.ollama_models import chat_body, embed_body
from testronaut_llm.providers.provider_registry import Provider
from testronaut_llm.providers.row import STRICT_DIALECTS
from testronaut_llm.records import Message, Usage

if TYPE_CHECKING:
    from pydantic import SecretStr

    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.schema.output_schema import WireSchema


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where one request goes, and with which key. `thinks`: whether the model can think, None where nobody knows."""

    model: ModelConfig
    provider: Provider
    api_base: str | None
    api_version: str | None = None
    key: SecretStr | None = None
    token_provider: Callable[[], str] | None = None
    thinks: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One chat request. `timeout` is seconds, `num_ctx` the context (tokens) that an Ollama model is loaded with.

    `prompt_cache` asks the provider to keep the system text; only Anthropic has to be asked. `task` is not sent.
    """

    target: Target
    messages: tuple[Message, ...]
    max_tokens: int
    timeout: float
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    schema: WireSchema | None = None
    num_ctx: int | None = None
    stream: bool = False
    prompt_cache: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """One request for vectors. `timeout` is seconds, `num_ctx` as of a `Request`."""

    target: Target
    texts: tuple[str, ...]
    timeout: float
    num_ctx: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How one attempt ended.

    Attributes:
        text: the answer, or the part of it that came, without the reasoning.
        reasoning: what the model thought first, as far as it was sent.
        error: why it is no answer, None where it is one.
        finish_reason: in OpenAI's words, or as it came where nobody knows it; only where one was received.
        usage: as the provider counted, to be proven; a `Usage` is taken as it is. None where nothing was counted.
        service: the service tier that answered: empty for the standard one, None where it is not said.
        sent: True if a request left this machine, so that it may have to be paid.
        vectors: of an embedding.
        dropped_params: settings that this model does not take and that were left out.
        headers: of the response, names in lower case.
        num_ctx: tokens of window that an Ollama model was asked for.
    """

    text: str = ""
    reasoning: str = ""
    error: LLMError | None = None
    finish_reason: str | None = None
    usage: Usage | Counts | None = None
    service: str | None = None
    response_model: str = ""
    request_id: str | None = None
    sent: bool = True
    vectors: tuple[tuple[float, ...], ...] = ()
    dropped_params: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    num_ctx: int | None = None


class _NoRetries(int):
    """0 that counts as given: LiteLLM's embeddings for OpenAI take a plain 0 for their default of 2 retries."""

    def __bool__(self) -> bool:
        return True


def litellm_name(target: Target, *, embedding: bool = False) -> str:
    """The model as LiteLLM spells it."""
    prefix = target.provider.litellm_prefix
    if embedding and target.provider.wire == "ollama":
        prefix = "ollama"  # LiteLLM's name for Ollama's /api/embed
    return f"{prefix}/{target.model.name}"


def arguments(request: Request | EmbedRequest) -> dict[str, Any]:
    """The request as arguments of `litellm.acompletion` or `litellm.aembedding`; the client is added at the door.

    Raises:
        InvalidRequestError: the provider does not take a field of `extra`, or not with a single call.
    """
    target, embedding = request.target, isinstance(request, EmbedRequest)
    name, ollama = litellm_name(target, embedding=embedding), target.provider.wire == "ollama"
    own: dict[str, Any]
    if isinstance(request, EmbedRequest):
        form = None if ollama else "float"
        own = {"input": list(request.texts), "dimensions": target.model.dimensions, "encoding_format": form}
    else:
        own = _chat(request)
    given = {
        "model": name,
        "api_base": target.api_base,
        "api_version": target.api_version,
        "api_key": target.key.get_secret_value() if target.key else "none",
        # LiteLLM asks the server on localhost about another Ollama model that an answer names, if this says nothing.
        "base_model": target.model.base_model or (name if ollama else None),
        "timeout": request.timeout,
        "max_retries": _NoRetries(),
        "drop_params": True,
        "no-log": True,
        **own,
        **target.provider.body_arguments(_body(request, own), embedding=embedding),
    }
    return {name: value for name, value in given.items() if value is not None}


def _chat(request: Request) -> dict[str, Any]:
    target, schema = request.target, request.schema
    asked: dict[str, Any] = {
        "messages": _turns(request),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "stream": request.stream,
    }
    if request.stream:
        asked["stream_options"] = {"include_usage": True}
    if schema is not None and schema.schema is not None:
        strict = {"strict": True} if target.provider.schema_dialect in STRICT_DIALECTS else {}
        wanted = {"name": schema.name, "schema": schema.schema, **strict}
        asked["response_format"] = {"type": "json_schema", "json_schema": wanted}
    if target.model.reasoning is not None and target.provider.wire != "ollama":
        asked["reasoning_effort"] = "none" if target.model.reasoning == "off" else target.model.reasoning
    return asked


def _turns(request: Request) -> list[dict[str, Any]]:
    """The messages; where Anthropic is to cache the system text, its last part is marked."""
    turns: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in request.messages]
    if request.prompt_cache and (stable := [turn for turn in turns if turn["role"] == "system" and turn["content"]]):
        text, mark = stable[-1]["content"], {"type": "ephemeral"}
        stable[-1]["content"] = [{"type": "text", "text": text, "cache_control": mark}]
    return turns


def _body(request: Request | EmbedRequest, own: Mapping[str, Any]) -> dict[str, Any]:
    """The further fields of the body: of the model's row and of the call, and what an Ollama model is loaded with."""
    model, provider, embedding = request.target.model, request.target.provider, isinstance(request, EmbedRequest)
    fields = {**model.extra, **request.extra}
    wrong = provider.refused(fields, embedding=embedding)
    if provider.name == "embedded" and (loaded := sorted_options(request.extra)[1]):
        wrong = f"extra holds {next(iter(loaded))!r}, with which the model is loaded: write it into `extra` of its row"
    if wrong:
        raise InvalidRequestError(wrong, model=model.alias, provider=provider.name)
    if provider.wire == "ollama":
        if embedding:
            return embed_body(model, num_ctx=request.num_ctx, extra=request.extra)
        options = {"num_predict": own["max_tokens"], **{name: own[name] for name in ("temperature", "stop", "seed")}}
        options = {name: value for name, value in options.items() if value is not None}
        thinks = request.target.thinks
        return chat_body(model, options, num_ctx=request.num_ctx, extra=request.extra, thinks=thinks)
    if provider.name != "embedded":
        return fields
    sampling, _, others = sorted_options(model.extra, request.extra)  # in llama.cpp's words
    return {**others, **{SAMPLING[word][1]: value for word, value in sampling.items()}}


def dropped_params(request: Request | EmbedRequest, sent: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Which settings of a chat request are nowhere in the body that was sent."""
    if sent is None or isinstance(request, EmbedRequest):
        return ()
    level, wire = request.target.model.reasoning, request.target.provider.wire
    names = {*sent, *(k for holder in ("options", "generationConfig") for k in sent.get(holder) or ())}
    wanted = {
        "temperature": request.temperature is not None,
        "stop": bool(request.stop),
        "seed": request.seed is not None,
        "reasoning": level is not None and (level, wire) != ("off", "anthropic"),  # off is its default
        **dict.fromkeys((*request.target.model.extra, *request.extra), True),
    }
    known_as = {
        "stop": {"stop", "stop_sequences", "stopSequences"},
        "reasoning": {"reasoning_effort", "thinking", "think", "output_config", "thinkingConfig"},
    }
    return tuple(name for name, given in wanted.items() if given and not names & known_as.get(name, {name}))
