"""One attempt as values (`Request`, `Reply`), and the request as arguments of LiteLLM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from testronaut_llm.config.extra_fields import SAMPLING, sorted_options
from testronaut_llm.errors import InvalidRequestError, LLMError
from testronaut_llm.gateway.evidence import Counts
from testronaut_llm.local.local_models import chat_body, embed_body
from testronaut_llm.providers.credentials import Key
from testronaut_llm.providers.provider import STRICT_DIALECTS, Provider
from testronaut_llm.records import Message, TokenChoice, Usage

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.schema.output_schema import WireSchema


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Endpoint and key of a request. `thinks`: True if the model can reason, None if unknown."""

    model: ModelConfig
    provider: Provider
    api_base: str | None
    api_version: str | None = None
    key: Key | None = None
    thinks: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: a chat, or vectors of `texts`."""

    target: Target
    timeout: float  # seconds
    messages: tuple[Message, ...] = ()
    texts: tuple[str, ...] = ()
    max_tokens: int = 0
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    schema: WireSchema | None = None
    num_ctx: int | None = None  # tokens of context that an Ollama model is loaded with
    stream: bool = False
    prompt_cache: bool = False  # asks the provider to cache the system text; only Anthropic has to be asked
    logprobs: bool = False  # asks for the log-probabilities of tokens, if the wire gives them
    extra: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""  # not sent; for test gateways that answer by task


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The result of one attempt; None for what was not received."""

    text: str = ""  # the answer without reasoning, or the part that was received
    reasoning: str = ""
    error: LLMError | None = None  # why it is not an answer
    finish_reason: str | None = None  # in OpenAI's words, or the received word if unknown
    usage: Usage | Counts | None = None  # counts are not checked yet; a `Usage` is used unchanged
    service: str | None = None  # the service tier that answered; empty is the standard one
    response_model: str = ""
    request_id: str | None = None
    sent: bool = True  # a request left this machine, so it may cost money
    vectors: tuple[tuple[float, ...], ...] = ()
    dropped_params: tuple[str, ...] = ()  # settings that were not sent, since the model does not support them
    logprobs: tuple[TokenChoice, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    num_ctx: int | None = None  # tokens of context that were requested from Ollama


class _NoRetries(int):
    """A true 0: LiteLLM's embeddings for OpenAI replace a plain 0 by their default of 2 retries."""

    def __bool__(self) -> bool:
        return True


def litellm_name(target: Target, *, embedding: bool = False) -> str:
    """Returns LiteLLM's name of the model. Ollama's `/api/chat` and `/api/embed` have different prefixes."""
    ollama_embedding = embedding and target.provider.wire == "ollama"
    return f"{'ollama' if ollama_embedding else target.provider.litellm_prefix}/{target.model.name}"


def arguments(request: Request) -> dict[str, Any]:
    """Returns the arguments of `litellm.acompletion` or `litellm.aembedding`, without the client.

    Raises InvalidRequestError if the provider does not support a field of `extra`, or only in `llm.yaml`.
    """
    target, embedding = request.target, bool(request.texts)
    name, ollama = litellm_name(target, embedding=embedding), target.provider.wire == "ollama"
    if embedding:
        form = None if ollama else "float"
        own = {"input": list(request.texts), "dimensions": target.model.dimensions, "encoding_format": form}
    else:
        own = _chat(request)
    given = {
        "model": name,
        "api_base": target.api_base,
        "api_version": target.api_version,
        "api_key": target.key.get_secret_value() if isinstance(target.key, SecretStr) else "none",
        # Without it LiteLLM asks the server on localhost about each Ollama model that an answer names.
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
    target, schema, level = request.target, request.schema, request.target.model.reasoning
    turns: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in request.messages]
    if request.prompt_cache and (stable := [turn for turn in turns if turn["role"] == "system" and turn["content"]]):
        mark = {"cache_control": {"type": "ephemeral"}}
        stable[-1]["content"] = [{"type": "text", "text": stable[-1]["content"], **mark}]
    asked: dict[str, Any] = {
        "messages": turns,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "stream": request.stream,
        "stream_options": {"include_usage": True} if request.stream else None,
    }
    if schema is not None and schema.schema is not None:
        strict = {"strict": True} if target.provider.schema_dialect in STRICT_DIALECTS else {}
        wanted = {"name": schema.name, "schema": schema.schema, **strict}
        asked["response_format"] = {"type": "json_schema", "json_schema": wanted}
    if request.logprobs and target.provider.logprobs and target.provider.wire != "ollama":
        asked |= {"logprobs": True, "top_logprobs": target.provider.logprobs}
    if level is not None and target.provider.wire != "ollama":
        asked["reasoning_effort"] = "none" if level == "off" else level
    return asked


def _body(request: Request, own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns further fields of the body: `extra` of the model and the call, and Ollama's options."""
    model, provider = request.target.model, request.target.provider
    fields = {**model.extra, **request.extra}
    wrong = provider.refused(fields, embedding=bool(request.texts))
    if provider.name == "embedded" and (loaded := sorted_options(request.extra)[1]):
        wrong = f"extra holds {next(iter(loaded))!r}, with which a model is loaded; move it to `extra` of its row"
    if wrong:
        raise InvalidRequestError(wrong, model=model.alias, provider=provider.name)
    if provider.wire == "ollama" and request.texts:
        return embed_body(model, num_ctx=request.num_ctx, extra=request.extra)
    if provider.wire == "ollama":
        options = {"num_predict": own["max_tokens"], **{name: own[name] for name in ("temperature", "stop", "seed")}}
        options = {name: value for name, value in options.items() if value is not None}
        asked = {"logprobs": True, "top_logprobs": provider.logprobs} if request.logprobs and provider.logprobs else {}
        thinks, extra = request.target.thinks, {**request.extra, **asked}
        return chat_body(model, options, num_ctx=request.num_ctx, extra=extra, thinks=thinks)
    if provider.name != "embedded":
        return fields
    sampling, _, others = sorted_options(model.extra, request.extra)
    return {**others, **{SAMPLING[word][1]: value for word, value in sampling.items()}}


_OTHER_NAMES = {
    "stop": {"stop", "stop_sequences", "stopSequences"},
    "reasoning": {"reasoning_effort", "thinking", "think", "output_config", "thinkingConfig"},
}
"""Settings with the fields of bodies that hold them, where the names differ."""


def dropped_params(request: Request, sent: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Returns the settings of a chat that are missing in the body that was sent."""
    model, wire = request.target.model, request.target.provider.wire
    wanted = ["temperature"] if request.temperature is not None else []
    if request.stop:
        wanted.append("stop")
    if request.seed is not None:
        wanted.append("seed")
    if model.reasoning is not None and (model.reasoning, wire) != ("off", "anthropic"):  # off is Anthropic's default
        wanted.append("reasoning")
    wanted += [*model.extra, *request.extra]
    if not wanted or sent is None or request.texts:
        return ()
    names = {*sent, *(sent.get("options") or ()), *(sent.get("generationConfig") or ())}
    return missing(wanted, names)


def missing(settings: Iterable[str], names: set[str]) -> tuple[str, ...]:
    """Returns the settings that are under none of their names in a body."""
    return tuple([one for one in dict.fromkeys(settings) if names.isdisjoint(_OTHER_NAMES.get(one, (one,)))])
