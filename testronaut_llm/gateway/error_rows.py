"""Which of our errors a provider's code or wording is: rows of data, each with the server that it was seen on."""

from __future__ import annotations

import re
from typing import NamedTuple

from testronaut_llm.errors import (
    AuthenticationError,
    BadResponseError,
    ConnectionFailedError,
    ContentFilteredError,
    ContextWindowError,
    InvalidRequestError,
    LLMError,
    LLMTimeoutError,
    LocalModelError,
    ModelNotFoundError,
    OutputInvalidError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    ServerError,
)


class Row(NamedTuple):
    """One code or wording: what it looks like, which error it is, and the server that it was seen on.

    A code matches the pattern as a whole, words hold it somewhere; case does not count. `statuses` are those under
    which it means this (none: each); without a status it always does.
    """

    pattern: str
    kind: type[LLMError]
    server: str
    statuses: tuple[int, ...] = ()

    def fits(self, text: str, status: int, *, whole: bool) -> bool:
        """True if the row speaks of this text. `status` is 0 where none is known."""
        if status and self.statuses and status not in self.statuses:
            return False
        return (re.fullmatch if whole else re.search)(self.pattern, text, re.IGNORECASE) is not None


_LONG = (400, 413, 422, 500)
_REFUSED = (400, 403, 422, 451)
_UNPAID = (400, 402, 403, 412, 429)
_NONE = (0,)

CODES = (
    Row("content_filter", ContentFilteredError, "OpenAI, Azure, Moonshot"),
    Row("content_policy_violation|moderation_blocked|invalid_prompt", ContentFilteredError, "OpenAI"),
    Row("responsibleaipolicyviolation|contentfiltered", ContentFilteredError, "Azure"),
    Row("data_?inspection_?failed", ContentFilteredError, "Qwen (DashScope)"),
    Row(r"(input|output)?(text)?sensitivecontentdetected(\..*)?", ContentFilteredError, "Volcengine Ark"),
    Row("sensitive_words_detected", ContentFilteredError, "new-api"),
    Row("insufficient_quota|billing_hard_limit_reached|billing_not_active", QuotaExceededError, "OpenAI"),
    Row("billing_error|credit_balance_too_low", QuotaExceededError, "Anthropic"),
    Row("insufficient_balance", QuotaExceededError, "DeepSeek"),
    Row("insufficient_user_quota", QuotaExceededError, "new-api"),
    Row("exceeded_current_quota_error", QuotaExceededError, "Moonshot"),
    Row("arrearage", QuotaExceededError, "Qwen (DashScope)"),
    Row(".*(spend_?limit|credit_?balance|hard_?limit|billing).*", QuotaExceededError, "Anthropic, OpenAI", _UNPAID),
    Row("context_length_exceeded", ContextWindowError, "OpenAI, Groq, Cerebras"),
    Row("exceed_context_size_error", ContextWindowError, "llama.cpp"),
    Row("request_too_large", ContextWindowError, "Anthropic"),
    Row("model_max_prompt_tokens_exceeded|tokens_limit_reached", ContextWindowError, "GitHub"),
    Row("too_many_tokens", ContextWindowError, "Cohere", _LONG),
    Row("json_validate_failed", OutputInvalidError, "Groq"),
    Row("tool_use_failed", BadResponseError, "Groq"),
    Row("invalid_api_key", AuthenticationError, "OpenAI"),
    Row("authentication_error", AuthenticationError, "Anthropic"),
    Row("api_key_invalid", AuthenticationError, "Gemini"),
    Row("permission_error", PermissionDeniedError, "Anthropic"),
    Row("model_not_found", ModelNotFoundError, "OpenAI", (400, 404, 410, 422, 500, 503)),
    Row("unknown_model|deploymentnotfound", ModelNotFoundError, "Azure", (400, 404, 410, 422, 500, 503)),
    Row("overloaded_error", OverloadedError, "Anthropic"),
    Row("engine_overloaded(_error)?", OverloadedError, "OpenAI, Moonshot"),
)
"""Codes that say more than the status."""

WORDS = (
    Row("prompt is too long", ContextWindowError, "Anthropic, Fireworks", _LONG),
    Row(r"input length and `?max_tokens`? exceed context limit", ContextWindowError, "Anthropic", _LONG),
    Row("maximum context length", ContextWindowError, "OpenAI, vLLM, SGLang, Mistral, OpenRouter", _LONG),
    Row(r"exceeds? the (model'?s )?(available )?context (size|length|window)", ContextWindowError, "OpenAI", _LONG),
    Row("input tokens exceed the configured limit", ContextWindowError, "OpenAI", _LONG),
    Row(r"invalid '(messages|input)\b.{0,30}string too long", ContextWindowError, "OpenAI", _LONG),
    Row("reduce the length of the (messages|(input )?prompt)", ContextWindowError, "Groq, Cerebras, vLLM", _LONG),
    Row(r"input \(\d+ tokens\) is too large", ContextWindowError, "llama.cpp", _LONG),
    Row(r"context (length|size|window) (has been )?exceeded", ContextWindowError, "LM Studio (MLX)", _LONG),
    Row(r"tokens when (the )?context (the )?overflows", ContextWindowError, "LM Studio", _LONG),
    Row("initial prompt is greater than the context length", ContextWindowError, "LM Studio", _LONG),
    Row(r"reached context length of \d+ tokens", ContextWindowError, "LM Studio", _LONG),
    Row(r"prompt has [\d,]+ tokens?, but the configured context size", ContextWindowError, "DS4", _LONG),
    Row("prompt too long; exceeded (max )?context length", ContextWindowError, "Ollama", _LONG),
    Row(r"input \(\d+ tokens\) is longer than the model'?s context length", ContextWindowError, "SGLang", _LONG),
    Row(r"input length \(?\d+[^.]{0,10} exceeds the maximum ", ContextWindowError, "SGLang, Volcengine Ark", _LONG),
    Row(r"prompt [^.]{0,40}is longer than the maximum model length", ContextWindowError, "vLLM", _LONG),
    Row(r"prompt \([^)]*\) is too long (to fit into the model|and exceeds)", ContextWindowError, "vLLM", _LONG),
    Row(r"prompt length \(?\d+\)? exceeds the max_model_len", ContextWindowError, "vLLM", _LONG),
    Row(r"the model'?s context length is only \d+", ContextWindowError, "vLLM", _LONG),
    Row(r"prompt length \(\d+\) exceeds maximum input length", ContextWindowError, "TensorRT-LLM", _LONG),
    Row(r"maximum prompt length is \d+", ContextWindowError, "xAI", _LONG),
    Row(r"`?inputs`? tokens \+ `?max_new_tokens`? must be <=", ContextWindowError, "TGI, Together", _LONG),
    Row(r"`?inputs`? must have less than \d+ tokens", ContextWindowError, "TGI, TEI", _LONG),
    Row(r"input is too long( for requested model|\. max input)", ContextWindowError, "Bedrock, Replicate", _LONG),
    Row("too many input tokens", ContextWindowError, "Bedrock (Titan)", _LONG),
    Row("number of input tokens exceeds maximum length", ContextWindowError, "Bedrock (Nova)", _LONG),
    Row(r"expected maxLength: \d+, actual: \d+", ContextWindowError, "Bedrock (AI21, Titan)", _LONG),
    Row("exceeded model token limit|model max length exceeded", ContextWindowError, "Moonshot", _LONG),
    Row(r"range of input length should be|message token length exceed", ContextWindowError, "Qwen (DashScope)", _LONG),
    Row("too many tokens: (total number|size limit|minimal context)", ContextWindowError, "Cohere", _LONG),
    Row("input token count .*exceeds", ContextWindowError, "Gemini", _LONG),
    Row(r"input token count is \d+ but model only supports", ContextWindowError, "Vertex AI", _LONG),
    Row("too many total text bytes", ContextWindowError, "Anthropic", _LONG),
    Row(r"prompt token count of \d+ exceeds the limit", ContextWindowError, "GitHub Copilot", _LONG),
    Row("exceeds (the )?maximum allowed input length", ContextWindowError, "Poolside", _LONG),
    Row("context window exceeds limit", ContextWindowError, "MiniMax", _LONG),
    Row("prompt exceeds max length|prompt ?超长", ContextWindowError, "Zhipu", _LONG),
    Row("your prompt was flagged|limited access to this content for safety", ContentFilteredError, "OpenAI", _REFUSED),
    Row("^this content was flagged for possible", ContentFilteredError, "OpenAI", _REFUSED),
    Row("rejected as a result of our safety system", ContentFilteredError, "OpenAI", _REFUSED),
    Row("output blocked by content filtering policy", ContentFilteredError, "Anthropic", _REFUSED),
    Row("^content exists risk", ContentFilteredError, "DeepSeek", _REFUSED),
    Row(r"put data may contain inappropriate content|datainspectionfailed", ContentFilteredError, "Qwen", _REFUSED),
    Row("content violates usage guidelines", ContentFilteredError, "xAI", _REFUSED),
    Row("request was rejected because it was considered high risk", ContentFilteredError, "Moonshot", _REFUSED),
    Row("requires moderation on .*your input was flagged", ContentFilteredError, "OpenRouter", _REFUSED),
    Row(r"(in|out)put new_sensitive", ContentFilteredError, "MiniMax", _REFUSED),
    Row("生成内容可能包含不安全或敏感内容", ContentFilteredError, "Zhipu", _REFUSED),
    Row("credit balance is too low", QuotaExceededError, "Anthropic", _UNPAID),
    Row("reached your specified (workspace )?API usage limits", QuotaExceededError, "Anthropic", _UNPAID),
    Row("insufficient balance", QuotaExceededError, "DeepSeek, MiniMax", _UNPAID),
    Row("spend(ing)? limit|exceeded your budget", QuotaExceededError, "Anthropic, xAI, LiteLLM's proxy", _UNPAID),
    Row("doesn't have any credits|used all available credits|run out of credits", QuotaExceededError, "xAI", _UNPAID),
    Row("user location is not supported", PermissionDeniedError, "Gemini", (400,)),
    Row("API key not valid", AuthenticationError, "Gemini", (400,)),
    Row("incorrect API key", AuthenticationError, "xAI", (400,)),
    Row("^login fail", AuthenticationError, "MiniMax", (400,)),
    Row("requires more system memory|out of memory", LocalModelError, "Ollama", (500,)),
    Row("timed out waiting for .*runner", LocalModelError, "Ollama", (500,)),
    Row("(unable to|error) load(ing)? model", LocalModelError, "Ollama", (500,)),
    Row(r"^invalid format:|^option \S+ must be|does not support embeddings", InvalidRequestError, "Ollama", (500,)),
)
"""Wordings, for servers that give no code of their own."""

VAGUE_CODES = (
    Row("rate_limit_error|rate_limit_exceeded|rate_limited", RateLimitError, "Anthropic, OpenAI, Mistral", _NONE),
    Row("invalid_request_error", InvalidRequestError, "OpenAI, Anthropic", _NONE),
    Row("not_found_error", ModelNotFoundError, "Anthropic", _NONE),
    Row("timeout_error", LLMTimeoutError, "Anthropic", _NONE),
)
"""Codes that say no more than a status: they count where there is none, as in the middle of a stream."""

BY_STATUS: dict[int, type[LLMError]] = {
    401: AuthenticationError,
    402: QuotaExceededError,
    403: PermissionDeniedError,
    404: ModelNotFoundError,
    407: ConnectionFailedError,
    408: LLMTimeoutError,
    409: ServerError,
    413: ContextWindowError,
    429: RateLimitError,
    501: InvalidRequestError,
    503: OverloadedError,
    504: LLMTimeoutError,
    529: OverloadedError,
}
