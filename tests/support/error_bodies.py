"""The error bodies of the providers, by wire and kind of failure, for the fault server.

Forms and codes follow the providers' documents. What servers were seen to say is in `data/error_messages.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = tuple[int, Any]
"""Status and body: HTML, or a value for JSON."""

# Status, message, type and code at OpenAI, type at Anthropic (None: it has no such error).
_INVALID = "invalid_request_error"
_CASES: dict[str, tuple[int, str, str, str | None, str | None]] = {
    "bad_request": (400, "Invalid role: 'robot'.", _INVALID, "invalid_value", _INVALID),
    "context": (400, "prompt is too long: 9001 tokens > 8192 maximum", _INVALID, "context_length_exceeded", _INVALID),
    "content_filter": (400, "Your request was rejected as a result of our safety system.", _INVALID,
        "content_policy_violation", None),
    "authentication": (401, "Incorrect API key provided: wrong*key.", _INVALID, "invalid_api_key",
        "authentication_error"),
    "payment": (402, "Add credits to continue.", "billing_error", "insufficient_credits", "billing_error"),
    "permission": (403, "No access to model `big-one`.", _INVALID, "model_not_found", "permission_error"),
    "not_found": (404, "The model `no-such` does not exist.", _INVALID, "model_not_found", "not_found_error"),
    "timeout": (408, "Request timed out.", "server_error", None, "timeout_error"),
    "conflict": (409, "The resource was updated by another process.", "conflict_error", None, "conflict_error"),
    "too_large": (413, "Request too large.", _INVALID, None, "request_too_large"),
    "unprocessable": (422, "Unable to process the request.", _INVALID, None, _INVALID),
    "rate_limit": (429, "Rate limit reached on requests per min (RPM): Limit 3, Used 3. Please try again in 20s.",
        "requests", "rate_limit_exceeded", "rate_limit_error"),
    "quota": (429, "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota", "insufficient_quota", None),
    "server_error": (500, "The server had an error while processing your request.", "server_error", None, "api_error"),
    "unavailable": (503, "Please try again later.", "server_error", None, "api_error"),
    "overloaded": (529, "Overloaded", "overloaded_error", None, "overloaded_error"),
}  # fmt: skip


def _openai(message: str, kind: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _anthropic(message: str, kind: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CTest"}


def _azure(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


_FILTERED = {
    "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
    "type": None, "param": "prompt", "code": "content_filter", "status": 400,
    "innererror": {"code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {"violence": {"filtered": True, "severity": "medium"}}},
}  # fmt: skip
_OPENAI = {case: (status, _openai(text, kind, code)) for case, (status, text, kind, code, _) in _CASES.items()}
_AZURE = {
    "content_filter": (400, {"error": _FILTERED}),
    "authentication": (401, _azure("401", "Access denied due to invalid subscription key or wrong API endpoint.")),
    "permission": (403, _azure("PermissionDenied", "The principal lacks the required data action.")),
    "not_found": (404, _azure("DeploymentNotFound", "The API deployment for this resource does not exist.")),
    "rate_limit": (429, _azure("429", "Requests have exceeded the call rate limit. Please retry after 26 seconds.")),
    "server_error": (500, _azure("InternalServerError", "The server had an error.")),
}
_ANTHROPIC = {case: (status, _anthropic(text, kind)) for case, (status, text, _, _, kind) in _CASES.items() if kind}
_POOR = _anthropic("Your credit balance is too low to access the Anthropic API.", _INVALID)
_OLLAMA = {
    "bad_request": (400, 'invalid message role: "robot"'),
    "context": (400, "the input length exceeds the context length"),
    "authentication": (401, "unauthorized"),
    "payment": (402, "you have reached your usage limit, please upgrade"),
    "permission": (403, "forbidden"),
    "not_found": (404, "model 'no-such' not found"),
    "rate_limit": (429, "too many requests"),
    "server_error": (500, "unexpected server status: llm server error"),
    "no_memory": (500, "model requires more system memory (5.6 GiB) than is available (2.1 GiB)"),
    "unavailable": (503, "server busy, please try again.  maximum pending requests exceeded"),
}
_PAGE = "<html>\r\n<head><title>{0}</title></head>\r\n<body><center>{0}</center></body>\r\n</html>\r\n"
_ALL: dict[str, Row] = {
    "bad_gateway": (502, _PAGE.format("502 Bad Gateway")),
    "gateway_timeout": (504, _PAGE.format("504 Gateway Time-out")),
}
ERRORS: Mapping[str, Mapping[str, Row]] = {
    "openai": _ALL | _OPENAI,
    "azure": _ALL | _OPENAI | _AZURE,
    "anthropic": _ALL | _ANTHROPIC | {"quota": (400, _POOR)},
    "ollama": _ALL | {case: (status, {"error": text}) for case, (status, text) in _OLLAMA.items()},
}
