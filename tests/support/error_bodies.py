"""The error bodies of the providers, by wire and kind of failure, for the fault server.

Texts follow the providers' documents and public reports; names, ids and numbers are made up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_GATEWAY = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n</body>\r\n</html>\r\n"
)


def _openai(message: str, kind: str | None, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _azure(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def _anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CTest"}


_INVALID = "invalid_request_error"
_QUOTA = "You exceeded your current quota, please check your plan and billing details."
Row = tuple[int, Any]

_OPENAI: dict[str, Row] = {
    "bad_request": (400, _openai("Invalid value: 'robot'.", _INVALID, "invalid_value", "messages[0].role")),
    "context": (400, _openai("This model's maximum context length is 8192 tokens. However, your messages resulted in "
        "9001 tokens. Please reduce the length of the messages.", _INVALID, "context_length_exceeded", "messages")),
    "content_filter": (400, _openai("Your request was rejected as a result of our safety system.", _INVALID,
        "content_policy_violation")),
    "authentication": (401, _openai("Incorrect API key provided: wrong*key. You can find your API key at "
        "https://platform.openai.com/account/api-keys.", _INVALID, "invalid_api_key")),
    "payment": (402, _openai("Insufficient credits. Add more to continue.", "billing_error", "insufficient_credits")),
    "permission": (403, _openai("Project does not have access to model `big-one`.", _INVALID, "model_not_found")),
    "not_found": (404, _openai("The model `no-such` does not exist or you do not have access to it.", _INVALID,
        "model_not_found")),
    "timeout": (408, _openai("Request timed out.", "server_error")),
    "conflict": (409, _openai("The resource was updated by another process. Please try again.", "conflict_error")),
    "too_large": (413, _openai("Request too large.", _INVALID)),
    "unprocessable": (422, _openai("Unable to process the request.", _INVALID)),
    "rate_limit": (429, _openai("Rate limit reached for a-model on requests per min (RPM): Limit 3, Used 3, Requested "
        "1. Please try again in 20s. Visit https://platform.openai.com/account/rate-limits to learn more.",
        "requests", "rate_limit_exceeded")),
    "quota": (429, _openai(_QUOTA, "insufficient_quota", "insufficient_quota")),
    "server_error": (500, _openai("The server had an error while processing your request. Sorry about that!",
        "server_error")),
    "unavailable": (503, _openai("The engine is currently overloaded, please try again later.", "server_error")),
    "overloaded": (529, _openai("Overloaded", "overloaded_error")),
}  # fmt: skip

_AZURE: dict[str, Row] = {
    **_OPENAI,
    "content_filter": (400, {"error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
        "Please modify your prompt and retry.",
        "type": None, "param": "prompt", "code": "content_filter", "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"violence": {"filtered": True, "severity": "medium"}}},
    }}),
    "authentication": (401, _azure("401", "Access denied due to invalid subscription key or wrong API endpoint. Make "
        "sure to provide a valid key for an active subscription and use a correct regional API endpoint for your "
        "resource.")),
    "permission": (403, _azure("PermissionDenied", "The principal lacks the required data action.")),
    "not_found": (404, _azure("DeploymentNotFound", "The API deployment for this resource does not exist. If you "
        "created the deployment within the last 5 minutes, please wait a moment and try again.")),
    "wrong_url": (404, _azure("404", "Resource not found")),
    "rate_limit": (429, _azure("429", "Requests have exceeded the call rate limit of your pricing tier. Please retry "
        "after 26 seconds.")),
    "server_error": (500, _azure("InternalServerError", "The server had an error while processing your request.")),
}  # fmt: skip

_ANTHROPIC: dict[str, Row] = {
    "bad_request": (400, _anthropic(_INVALID, "messages.0.role: Input should be 'user' or 'assistant'")),
    "context": (400, _anthropic(_INVALID, "prompt is too long: 200021 tokens > 200000 maximum")),
    "quota": (400, _anthropic(_INVALID, "Your credit balance is too low to access the Anthropic API. Please go to "
        "Plans & Billing to upgrade or purchase credits.")),
    "authentication": (401, _anthropic("authentication_error", "invalid x-api-key")),
    "payment": (402, _anthropic("billing_error", "There is an issue with your billing or payment information.")),
    "permission": (403, _anthropic("permission_error", "Your API key does not have permission to use the resource.")),
    "not_found": (404, _anthropic("not_found_error", "model: no-such")),
    "timeout": (408, _anthropic("timeout_error", "Request timed out.")),
    "conflict": (409, _anthropic("conflict_error", "The resource was changed. Please try again.")),
    "too_large": (413, _anthropic("request_too_large", "Request exceeds the maximum size")),
    "unprocessable": (422, _anthropic(_INVALID, "Unprocessable request.")),
    "rate_limit": (429, _anthropic("rate_limit_error", "This request would exceed your organization's rate limit of "
        "30,000 input tokens per minute.")),
    "server_error": (500, _anthropic("api_error", "Internal server error")),
    "unavailable": (503, _anthropic("api_error", "Service unavailable")),
    "gateway_timeout": (504, _anthropic("timeout_error", "Request timed out")),
    "overloaded": (529, _anthropic("overloaded_error", "Overloaded")),
}  # fmt: skip

_OLLAMA: dict[str, Row] = {
    "bad_request": (400, {"error": 'invalid message role: "robot"'}),
    "context": (400, {"error": "the input length exceeds the context length"}),
    "authentication": (401, {"error": "unauthorized"}),
    "payment": (402, {"error": "you have reached your usage limit, please upgrade"}),
    "permission": (403, {"error": "forbidden"}),
    "not_found": (404, {"error": "model 'no-such' not found"}),
    "rate_limit": (429, {"error": "too many requests"}),
    "server_error": (500, {"error": "unexpected server status: llm server error"}),
    "no_memory": (500, {"error": "model requires more system memory (5.6 GiB) than is available (2.1 GiB)"}),
    "unavailable": (503, {"error": "server busy, please try again.  maximum pending requests exceeded"}),
}

_ALL: dict[str, Row] = {
    "bad_gateway": (502, _GATEWAY.format("502 Bad Gateway")),
    "gateway_timeout": (504, _GATEWAY.format("504 Gateway Time-out")),
}
_OWN = {"openai": _OPENAI, "azure": _AZURE, "anthropic": _ANTHROPIC, "ollama": _OLLAMA}
ERRORS: Mapping[str, Mapping[str, Row]] = {wire: {**_ALL, **own} for wire, own in _OWN.items()}


def error_body(wire: str, case: str) -> tuple[int, str, bytes]:
    """Status, content type and body of one provider's answer; KeyError when that provider has no such answer."""
    status, body = ERRORS[wire][case]
    if isinstance(body, str):
        return status, "text/html", body.encode()
    return status, "application/json", json.dumps(body).encode()
