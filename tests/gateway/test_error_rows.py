"""Each code and wording that a server was seen to use is one of our errors, and innocent messages are not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from testronaut_llm import errors
from testronaut_llm.gateway.error_rows import CODES, VAGUE_CODES, WORDS
from testronaut_llm.gateway.provider_errors import complaint_of, kind_of

LONG, REFUSED, UNPAID = errors.ContextWindowError, errors.ContentFilteredError, errors.QuotaExceededError

TOO_LONG: list[tuple[str, int, str]] = [
    ("Anthropic", 400, "prompt is too long: 213462 tokens > 200000 maximum"),
    (
        "Anthropic",
        400,
        "input length and `max_tokens` exceed context limit: 188059 + 20000 > 200000, decrease input length or "
        "`max_tokens` and try again",
    ),
    ("Anthropic", 400, "messages: too many total text bytes: 9437184 > 9000000"),
    (
        "OpenAI",
        400,
        "This model's maximum context length is 4097 tokens, however you requested 4226 tokens (3970 in your prompt; "
        "256 for the completion). Please reduce your prompt; or completion length.",
    ),
    ("OpenAI", 400, "Your input exceeds the context window of this model. Please adjust your input and try again."),
    (
        "OpenAI",
        400,
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 274038 tokens.",
    ),
    (
        "OpenAI",
        400,
        "Invalid 'messages[1].content': string too long. Expected a string with maximum length 1048576, but got a "
        "string with length 1540820 instead.",
    ),
    ("OpenAI", 400, "Invalid 'input': string too long. Expected a string with maximum length 10485760, but got more."),
    (
        "Mistral",
        400,
        "Prompt contains 65673 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    ),
    ("Mistral", 400, "This model\u2019s maximum context length is 131072 tokens. However, you requested 140000."),
    ("Groq", 400, "Please reduce the length of the messages or completion."),
    (
        "Cerebras",
        400,
        "Please reduce the length of the messages or completion. Current length is 8220 while limit is 8192",
    ),
    ("llama.cpp", 400, "the request exceeds the available context size, try increasing it"),
    ("llama.cpp", 400, "request (5213 tokens) exceeds the available context size (4096 tokens), try increasing it"),
    (
        "llama.cpp",
        500,
        "input (5000 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
    ),
    ("Ollama", 400, "the input length exceeds the context length"),
    ("Ollama", 400, "prompt too long; exceeded max context length by 36343 tokens"),
    (
        "LM Studio",
        400,
        "Trying to keep the first 15857 tokens when context the overflows. However, the model is loaded with context "
        "length of only 4096 tokens, which is not enough. Try to load the model with a larger context length",
    ),
    ("LM Studio", 400, "Trying to keep the first 6547 tokens when context overflows. However, the model is loaded"),
    (
        "LM Studio",
        400,
        "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 13055>= "
        "n_ctx: 4096). Try to load the model with a larger context length, or provide a shorter input.",
    ),
    (
        "LM Studio",
        200,
        "Reached context length of 4096 tokens with model (arch: qwen3vlmoe) that does not currently support "
        "mid-generation context overflow. Try reloading with a larger context length or shortening the prompt/chat.",
    ),
    ("LM Studio", 200, "Context size has been exceeded."),
    ("LM Studio", 200, "Trying to keep the first 9000 tokens when context the overflows."),
    ("DS4", 400, "Prompt has 40,960 tokens, but the configured context size is 32,768 tokens"),
    ("SGLang", 400, "The input (61709 tokens) is longer than the model's context length (40960 tokens)."),
    (
        "SGLang",
        400,
        "Requested token count exceeds the model's maximum context length of 202752 tokens. You requested a total of "
        "202941 tokens: 170941 tokens from the input messages and 32000 tokens for the completion.",
    ),
    ("SGLang", 400, "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens)."),
    (
        "vLLM",
        400,
        "The decoder prompt (length 21535) is longer than the maximum model length of 16384. Make sure that "
        "`max_model_len` is no smaller than the number of text tokens.",
    ),
    ("vLLM behind Xinference", 500, "[address=0.0.0.0:43769, pid=1065] The decoder prompt (length 66501) is longer "
     "than the maximum model length of 65536."),
    ("vLLM", 400, "Prompt length of 2048 is longer than the maximum model length of 2048."),
    (
        "vLLM",
        400,
        "The prompt (total length 25938) is too long to fit into the model (context length 4096). Make sure that "
        "`max_model_len` is no smaller than the number of text tokens plus multimodal tokens.",
    ),
    ("vLLM", 400, "Input prompt (33000 tokens) is too long and exceeds limit of 32768"),
    ("vLLM", 400, "The engine prompt length 33000 exceeds the max_model_len 32768. Please reduce prompt."),
    (
        "vLLM",
        400,
        "You passed 98305 input tokens and requested 32768 output tokens. However, the model's context length is only "
        "131072 tokens, resulting in a maximum input length of 98304 tokens.",
    ),
    ("vLLM", 400, "Something else. Please reduce the length of the input prompt. (parameter=input_tokens)"),
    (
        "LiteLLM's proxy",
        400,
        'litellm.BadRequestError: Hosted_vllmException - {"error":{"message":"You passed 147421 input tokens and '
        "requested 16384 output tokens. However, the model's context length is only 163804 tokens\"}}",
    ),
    ("TensorRT-LLM", 400, "Prompt length (5000) exceeds maximum input length (4096)."),
    (
        "xAI",
        400,
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
    ),
    (
        "TGI",
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 8740 `inputs` tokens and "
        "500 `max_new_tokens`",
    ),
    ("TGI", 422, "Input validation error: inputs tokens + max_new_tokens must be <= 2048"),
    ("TGI", 422, "Input validation error: `inputs` must have less than 2048 tokens. Given: 2222"),
    (
        "Together",
        422,
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 80125 `inputs` tokens and "
        "4096 `max_new_tokens`",
    ),
    ("Bedrock", 400, "The model returned the following errors: Input is too long for requested model."),
    ("Bedrock (Titan)", 400, "400 Bad Request: Too many input tokens. Max input tokens: 8192, request input: 8855"),
    (
        "Bedrock (Nova)",
        400,
        "Input Tokens Exceeded: Number of input tokens exceeds maximum length. Please update the input to try again.",
    ),
    ("Bedrock (AI21)", 400, "Malformed input request: expected maxLength: 50000, actual: 53030, please reformat."),
    ("Replicate", 400, "Your input is too long. Max input length is 4096 tokens, but you supplied 5441 tokens."),
    ("Moonshot", 400, "Invalid request: Your request exceeded model token limit: 262144 (requested: 269030)"),
    ("Moonshot", 400, "model max length exceeded, max length:8192"),
    ("Qwen", 400, "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]"),
    ("Qwen", 400, "Total message token length exceed model limit (10000000 tokens)."),
    (
        "Cohere",
        400,
        "too many tokens: total number of tokens (prompt and prediction) cannot exceed 2048 - received 6354. Try using "
        "a shorter prompt or a smaller max_tokens value.",
    ),
    ("Cohere", 400, "too many tokens: size limit exceeded by 19296 tokens. Try using shorter or fewer inputs."),
    ("Cohere", 400, "too many tokens: minimal context could not be added to prompt (size limit exceeded by 3 tokens)"),
    ("Gemini", 400, "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576)."),
    (
        "Vertex AI",
        400,
        "Unable to submit request because the input token count is 40000 but model only supports up to 32768.",
    ),
    ("GitHub Copilot", 400, "prompt token count of 130000 exceeds the limit of 128000"),
    ("Poolside", 400, "Input length 131393 exceeds the maximum allowed input length of 131040 tokens."),
    ("Poolside", 400, "The prompt exceeds maximum allowed input length of 131,040 tokens"),
    ("Volcengine Ark", 400, "Input length 203743 exceeds the maximum length 202752"),
    ("MiniMax", 400, "invalid params, context window exceeds limit (2013)"),
    ("Zhipu", 400, "Prompt exceeds max length"),
    ("Zhipu", 400, "Prompt 超长"),
    ("Fireworks", 400, "The prompt is too long: 150000, model maximum context length: 131071"),
    ("OpenRouter", 400, "This endpoint's maximum context length is 131072 tokens. However, you requested about 140000"),
]  # fmt: skip

OTHERS: list[tuple[str, int, str, type[errors.LLMError]]] = [
    (
        "OpenAI",
        400,
        "Invalid prompt: your prompt was flagged as potentially violating our usage policy. Please try again with a "
        "different prompt: https://platform.openai.com/docs/guides/reasoning#advice-on-prompting",
        REFUSED,
    ),
    ("OpenAI", 400, "Invalid prompt: we've limited access to this content for safety reasons.", REFUSED),
    ("OpenAI", 400, "This content was flagged for possible cybersecurity risk.", REFUSED),
    ("OpenAI", 400, "Your request was rejected as a result of our safety system.", REFUSED),
    ("Anthropic", 400, "Output blocked by content filtering policy", REFUSED),
    ("DeepSeek", 400, "Content Exists Risk", REFUSED),
    ("Qwen", 400, "<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate content.",
     REFUSED),
    ("Qwen", 400, "Output data may contain inappropriate content.", REFUSED),
    (
        "xAI",
        403,
        "Content violates usage guidelines. Team: x, API key ID: y, Model: grok-4-0709, Failed check: "
        "SAFETY_CHECK_TYPE_BIO",
        REFUSED,
    ),
    ("Moonshot", 400, "The request was rejected because it was considered high risk", REFUSED),
    (
        "OpenRouter",
        403,
        'openai/gpt-x requires moderation on OpenRouter. Your input was flagged for "harassment".',
        REFUSED,
    ),
    ("MiniMax", 400, "output new_sensitive (1027)", REFUSED),
    ("Zhipu", 400, "系统检测到输入或生成内容可能包含不安全或敏感内容", REFUSED),
    ("Anthropic", 400, "Your credit balance is too low to access the Anthropic API.", UNPAID),
    ("Anthropic", 400, "You have reached your specified API usage limits. You will regain access on 2026-09-01 at "
     "00:00 UTC.", UNPAID),
    ("Anthropic", 400, "You have reached your specified workspace API usage limits.", UNPAID),
    ("xAI", 403, "Your newly created team doesn't have any credits or licenses yet. You can purchase those on "
     "https://console.x.ai/team/x", UNPAID),
    ("xAI", 403, "Your newly created teams doesn't have any credits yet.", UNPAID),
    ("xAI", 403, "Your team x has either used all available credits or reached its monthly spending limit.", UNPAID),
    ("xAI", 403, "You have run out of credits or need a Grok subscription.", UNPAID),
    ("Fireworks", 412, "Account x is suspended, possibly due to reaching the monthly spending limit", UNPAID),
    ("MiniMax", 200, "insufficient balance", UNPAID),
    ("MiniMax", 200, "login fail: Please carry the API secret key in the 'Authorization' field",
     errors.AuthenticationError),
    ("LiteLLM's proxy", 400, "ExceededBudget: you have exceeded your budget", UNPAID),
    ("Gemini", 400, "User location is not supported for the API use.", errors.PermissionDeniedError),
    ("Gemini", 400, "API key not valid. Please pass a valid API key.", errors.AuthenticationError),
    ("xAI", 400, "Incorrect API key provided: xa***yz.", errors.AuthenticationError),
    ("Ollama", 500, "timed out waiting for llama runner to start - progress 0.00 - ", errors.LocalModelError),
    ("Ollama", 500, "unable to load model: /models/blobs/sha256-abc", errors.LocalModelError),
    ("Ollama", 500, "model requires more system memory (5.6 GiB) than is available (2.1 GiB)", errors.LocalModelError),
    ("Ollama", 500, 'invalid format: "xml"; expected "json" or a valid JSON Schema object', errors.InvalidRequestError),
]  # fmt: skip

CODED: list[tuple[str, int, dict[str, Any], type[errors.LLMError]]] = [
    ("OpenAI", 400, {"type": "invalid_request_error", "code": "invalid_prompt", "message": "Invalid prompt"}, REFUSED),
    ("OpenAI", 400, {"type": "image_generation_user_error", "code": "moderation_blocked"}, REFUSED),
    ("Azure", 400, {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, REFUSED),
    ("Azure", 400, {"code": "ContentFiltered"}, REFUSED),
    ("Qwen", 400, {"code": "data_inspection_failed", "type": "data_inspection_failed"}, REFUSED),
    ("Qwen", 400, {"code": "DataInspectionFailed"}, REFUSED),
    ("Volcengine Ark", 400, {"code": "SensitiveContentDetected"}, REFUSED),
    ("Volcengine Ark", 400, {"code": "InputTextSensitiveContentDetected"}, REFUSED),
    ("Volcengine Ark", 400, {"code": "SensitiveContentDetected.SevereViolation"}, REFUSED),
    ("new-api", 400, {"code": "sensitive_words_detected"}, REFUSED),
    ("Moonshot", 400, {"type": "content_filter", "message": "considered high risk"}, REFUSED),
    ("OpenAI", 429, {"code": "insufficient_quota"}, UNPAID),
    ("OpenAI", 429, {"code": "billing_not_active"}, UNPAID),
    ("Anthropic", 402, {"type": "billing_error"}, UNPAID),
    ("Anthropic", 429, {"type": "org_spend_limit_reached"}, UNPAID),
    ("DeepSeek", 400, {"code": "insufficient_balance"}, UNPAID),
    ("new-api", 403, {"code": "insufficient_user_quota"}, UNPAID),
    ("Moonshot", 429, {"type": "exceeded_current_quota_error"}, UNPAID),
    ("Qwen", 400, {"code": "Arrearage"}, UNPAID),
    ("Groq", 400, {"code": "context_length_exceeded"}, LONG),
    ("llama.cpp", 400, {"type": "exceed_context_size_error"}, LONG),
    ("Anthropic", 413, {"type": "request_too_large"}, LONG),
    ("GitHub Copilot", 400, {"code": "model_max_prompt_tokens_exceeded"}, LONG),
    ("GitHub Models", 413, {"code": "tokens_limit_reached"}, LONG),
    ("Cohere", 400, {"type": "TOO_MANY_TOKENS"}, LONG),
    ("Groq", 400, {"code": "json_validate_failed"}, errors.OutputInvalidError),
    ("Groq", 400, {"code": "tool_use_failed"}, errors.BadResponseError),
    ("OpenAI", 400, {"code": "invalid_api_key"}, errors.AuthenticationError),
    ("Anthropic", 400, {"type": "authentication_error"}, errors.AuthenticationError),
    ("Gemini", 400, {"details": [{"reason": "API_KEY_INVALID"}]}, errors.AuthenticationError),
    ("Anthropic", 400, {"type": "permission_error"}, errors.PermissionDeniedError),
    ("new-api", 503, {"code": "model_not_found"}, errors.ModelNotFoundError),
    ("Azure", 404, {"code": "DeploymentNotFound"}, errors.ModelNotFoundError),
    ("Anthropic", 500, {"type": "overloaded_error"}, errors.OverloadedError),
    ("Moonshot", 429, {"type": "engine_overloaded_error"}, errors.OverloadedError),
]

INNOCENT: list[tuple[str, int, str, type[errors.LLMError]]] = [
    ("OpenAI", 400, "max_tokens is too large: 8192. This model supports at most 4096 completion tokens, whereas you "
     "provided 8192.", errors.InvalidRequestError),
    ("Anthropic", 400, "max_tokens: 8192 > 4096, which is the maximum allowed number of output tokens for claude-3",
     errors.InvalidRequestError),
    ("Groq", 400, "`max_tokens` must be less than or equal to `16384`, the maximum value for `max_tokens` is less than "
     "the `context_window` for this model", errors.InvalidRequestError),
    ("TGI", 422, "Input validation error: `max_new_tokens` must be <= 192. Given: 500", errors.InvalidRequestError),
    ("TGI", 422, "Input validation error: `temperature` must be strictly positive", errors.InvalidRequestError),
    ("TGI", 422, "Input validation error: `inputs` must be non empty", errors.InvalidRequestError),
    ("Qwen", 400, "Range of max_tokens should be [1, 8192]", errors.InvalidRequestError),
    ("Cohere", 400, "too many tokens: max tokens must be less than or equal to 4096, the maximum output for this model "
     "- received 8192.", errors.InvalidRequestError),
    ("Bedrock", 429, "Too many tokens, please wait before trying again.", errors.RateLimitError),
    ("Bedrock", 400, "Malformed input request: #: required key [messages] not found", errors.InvalidRequestError),
    ("OpenAI", 400, "Invalid 'user': string too long. Expected a string with maximum length 64, but got a string with "
     "length 99 instead.", errors.InvalidRequestError),
    ("OpenAI", 400, "Invalid 'metadata.note': string too long. Expected a string with maximum length 512.",
     errors.InvalidRequestError),
    ("OpenAI", 429, "Request too large for gpt-4 on tokens per min (TPM): Limit 10000, Requested 12345. The input or "
     "output tokens must be reduced in order to run successfully.", errors.RateLimitError),
    ("OpenAI", 400, "Unsupported value: 'temperature' does not support 0 with this model.", errors.InvalidRequestError),
    ("OpenAI", 400, "Invalid value for 'content': expected a string, got null.", errors.InvalidRequestError),
    ("xAI", 403, "Access to the chat endpoint is denied. Please ensure you're using the correct credentials.",
     errors.PermissionDeniedError),
    ("Gemini", 400, "Invalid location hint", errors.InvalidRequestError),
    ("vLLM", 400, "The guided_json prompt schema is invalid", errors.InvalidRequestError),
    ("any", 400, "the tool result says: content exists risk of data loss", errors.InvalidRequestError),
    ("any", 500, "content policy service unreachable", errors.ServerError),
]  # fmt: skip


def _kind(status: int, body: Any) -> type[errors.LLMError]:
    return kind_of(status, complaint_of(json.dumps(body)))


@pytest.mark.parametrize("shape", ["openai", "plain", "bare", "detail"])
@pytest.mark.parametrize(("server", "status", "words"), TOO_LONG)
def test_too_long_in_the_words_of_each_server(server: str, status: int, words: str, shape: str) -> None:
    """A prompt that is too long goes to a larger model, whichever server says so and in whichever body."""
    assert _kind(status, _body(words, shape)) is LONG, server


@pytest.mark.parametrize(("server", "status", "words", "expected"), [*OTHERS, *INNOCENT])
def test_words_say_what_the_status_does_not(
    server: str, status: int, words: str, expected: type[errors.LLMError]
) -> None:
    """Refusals, unpaid bills and the like are told by their words; messages that only resemble them are not."""
    assert _kind(status, _body(words, "openai")) is expected, server


@pytest.mark.parametrize(("server", "status", "error", "expected"), CODED)
def test_codes_say_what_the_status_does_not(
    server: str, status: int, error: dict[str, Any], expected: type[errors.LLMError]
) -> None:
    """A server's own code tells the error."""
    assert _kind(status, {"error": {"message": "no words", **error}}) is expected, server


@pytest.mark.parametrize("row", WORDS, ids=lambda row: row.pattern)
def test_each_wording_has_an_example(row: Any) -> None:
    """No row stands in the table that no server's message is known for."""
    spoken = [(status, words) for _, status, words, *_ in (*TOO_LONG, *OTHERS)]
    spoken += [(500, "the model does not support embeddings")]
    assert any(row.fits(words, status if status >= 400 else 0, whole=False) for status, words in spoken)


@pytest.mark.parametrize("row", [*CODES, *VAGUE_CODES], ids=lambda row: row.pattern)
def test_each_code_row_names_its_server(row: Any) -> None:
    """A row says where it was seen."""
    assert row.server
    assert row.pattern == row.pattern.lower(), "codes are compared in lower case"


def test_a_wording_counts_under_its_statuses_alone() -> None:
    """The same words under a status that says what happened change nothing."""
    assert _kind(404, _body("prompt is too long", "openai")) is errors.ModelNotFoundError
    assert _kind(401, _body("Content Exists Risk", "openai")) is errors.AuthenticationError
    assert _kind(500, _body("User location is not supported for the API use.", "openai")) is errors.ServerError


def _body(words: str, shape: str) -> Any:
    if shape == "openai":
        return {"error": {"message": words, "type": "invalid_request_error", "code": None}}
    return {"plain": {"error": words}, "bare": {"object": "error", "message": words}, "detail": {"detail": words}}[
        shape
    ]
