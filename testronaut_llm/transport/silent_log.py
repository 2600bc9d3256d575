"""LiteLLM's own record of a call, which here records nothing: ledger, prices and log are this package's.

What LiteLLM would do with it, for nobody to see, is a tenth of the time of a request: look for callbacks, mask and
keep request and response, and work out a price.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import Any

_SYNC = ("pre_call", "post_call", "success_handler", "failure_handler", "response_cost_calculator")
_ASYNC = ("async_success_handler", "async_failure_handler", "dispatch_success_handlers", "dispatch_failure_handlers")


def silent_log(litellm: Any, arguments: dict[str, Any], call: str) -> Any:
    """What `completion`, `embedding` and their like, named by `call`, take as their record of these arguments."""
    log = _kind(litellm)(
        model=arguments["model"],
        messages=arguments.get("messages") or arguments.get("input"),
        stream=arguments.get("stream", False),
        call_type=call,
        start_time=datetime.now(),  # noqa: DTZ005 - as LiteLLM does, which subtracts such times
        litellm_call_id="",
        function_id="",
        litellm_trace_id="none",
        kwargs=arguments,
        supports_correlation_logging=False,
    )
    log.stream_options = arguments.get("stream_options")  # here LiteLLM looks whether a stream shall tell its usage
    return log


def silent(stream: Any) -> Any:
    """LiteLLM's stream, which would run an event loop for each piece, in a thread of its own, to tell its record."""
    with suppress(AttributeError):  # a plain generator does no such thing
        stream.run_success_logging_and_cache_storage = lambda *_: None
    return stream


@cache
def _kind(litellm: Any) -> Any:
    def nothing(*_: Any, **__: Any) -> None: ...

    async def nothing_later(*_: Any, **__: Any) -> None: ...

    methods = {**dict.fromkeys(_SYNC, nothing), **dict.fromkeys(_ASYNC, nothing_later)}
    return type("SilentLog", (litellm.litellm_core_utils.litellm_logging.Logging,), methods)
