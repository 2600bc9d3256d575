"""What the gateway is asked and what it answers: one attempt at one model, as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from testronaut_llm.config.local_options import SAMPLING, sorted_options
from testronaut_llm.errors import InvalidRequestError, LLMError
from testronaut_llm.gateway.usage import Counts
from testronaut_llm.local.ollama_body import chat_body, embed_body
from testronaut_llm.providers import body_fields
from testronaut_llm.providers.provider_registry import Provider
from testronaut_llm.records import Message, Usage

if TYPE_CHECKING:
    from pydantic import SecretStr

    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.schema.output_schema import WireSchema


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where one request goes, and with which key. `thinks`: can the model do so? None where nobody knows."""

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
        sent: did a request leave this machine? Then it may have to be paid.
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


def litellm_name(target: Target, *, embedding: bool = False) -> str:
    """The model as LiteLLM spells it."""
    prefix = target.provider.litellm_prefix
    if embedding and target.provider.wire == "ollama":
        prefix = "ollama"  # LiteLLM's name for Ollama's /api/embed
    return f"{prefix}/{target.model.name}"


def chat_arguments(request: Request) -> dict[str, Any]:
    """The request in LiteLLM's words; the client is added at the door."""
    target = request.target
    arguments: dict[str, Any] = {
        **_common(target, request.timeout),
        "model": litellm_name(target),
        "messages": _turns(request),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "stream": request.stream,
    }
    if request.stream:
        arguments["stream_options"] = {"include_usage": True}
    if request.schema is not None and request.schema.schema is not None:
        arguments["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": request.schema.name,
                "schema": request.schema.schema,
                **({"strict": True} if target.provider.schema_dialect == "strict" else {}),
            },
        }
    body = _extra(request)
    if target.provider.wire == "ollama":
        own = {"num_predict": request.max_tokens, **{name: arguments[name] for name in ("temperature", "stop", "seed")}}
        given = {name: value for name, value in own.items() if value is not None}
        body = chat_body(target.model, given, num_ctx=request.num_ctx, extra=request.extra, thinks=target.thinks)
    elif target.model.reasoning is not None:
        arguments["reasoning_effort"] = "none" if target.model.reasoning == "off" else target.model.reasoning
    arguments.update(body_fields.arguments(body, target.provider))
    return {name: value for name, value in arguments.items() if value is not None}


def _extra(request: Request | EmbedRequest) -> dict[str, Any]:
    """The body fields of the model's row and of the call; an embedded model's options in llama.cpp's words.

    Raises:
        InvalidRequestError: the provider takes no such, or not with a single call.
    """
    model, provider = request.target.model, request.target.provider
    fields = {**model.extra, **request.extra}
    wrong = body_fields.refused(fields, provider, embedding=isinstance(request, EmbedRequest))
    if provider.name == "embedded" and (loaded := sorted_options(request.extra)[1]):
        wrong = f"extra holds {next(iter(loaded))!r}, with which the model is loaded: write it into `extra` of its row"
    if wrong:
        raise InvalidRequestError(wrong, model=model.alias, provider=provider.name)
    if provider.name != "embedded":
        return fields
    sampling, _, others = sorted_options(model.extra, request.extra)
    return {**others, **{SAMPLING[word][1]: value for word, value in sampling.items()}}


def _turns(request: Request) -> list[dict[str, Any]]:
    """The messages; where Anthropic is to cache the system text, its last part is marked."""
    turns: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in request.messages]
    if request.prompt_cache and (stable := [turn for turn in turns if turn["role"] == "system" and turn["content"]]):
        text, mark = stable[-1]["content"], {"type": "ephemeral"}
        stable[-1]["content"] = [{"type": "text", "text": text, "cache_control": mark}]
    return turns


def embed_arguments(request: EmbedRequest) -> dict[str, Any]:
    """The same for vectors."""
    target = request.target
    arguments: dict[str, Any] = {
        **_common(target, request.timeout),
        "model": litellm_name(target, embedding=True),
        "input": list(request.texts),
        "dimensions": target.model.dimensions,
    }
    body = _extra(request)
    if target.provider.wire == "ollama":
        body = embed_body(target.model, num_ctx=request.num_ctx, extra=request.extra)
    else:
        arguments["encoding_format"] = "float"
    arguments.update(body_fields.arguments(body, target.provider, embedding=True))
    return {name: value for name, value in arguments.items() if value is not None}


def dropped_params(request: Request, sent: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Which settings of the request are nowhere in the body that was sent."""
    if sent is None:
        return ()
    names = {*sent, *(k for holder in ("options", "generationConfig") for k in sent.get(holder) or ())}
    wanted = {
        "temperature": request.temperature is not None,
        "stop": bool(request.stop),
        "seed": request.seed is not None,
        "reasoning": _wants_reasoning(request.target),
        **dict.fromkeys((*request.target.model.extra, *request.extra), True),
    }
    known_as = {
        "stop": {"stop", "stop_sequences", "stopSequences"},
        "reasoning": {"reasoning_effort", "thinking", "think", "output_config", "thinkingConfig"},
    }
    return tuple(name for name, given in wanted.items() if given and not names & known_as.get(name, {name}))


def _wants_reasoning(target: Target) -> bool:
    level = target.model.reasoning
    return level is not None and not (level == "off" and target.provider.wire == "anthropic")  # off is its default


def _common(target: Target, timeout: float) -> dict[str, Any]:
    return {
        "api_base": target.api_base,
        "api_version": target.api_version,
        "api_key": target.key.get_secret_value() if target.key else "none",
        "base_model": target.model.base_model,
        "timeout": timeout,
        "max_retries": 0,
        "drop_params": True,
        "no-log": True,
    }
