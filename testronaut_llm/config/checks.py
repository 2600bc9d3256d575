"""Checks of single fields of `llm.yaml` that a type and a bound cannot say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from testronaut_llm import errors
from testronaut_llm.config.faults import UnknownNameError, shown
from testronaut_llm.config.values import native
from testronaut_llm.support.text import did_you_mean

REFERENCE = re.compile(r"[A-Za-z0-9][\w.-]*/\S.*")
"""`provider/model`: the model's name may hold more slashes, colons, and whatever its server allows."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def reference(value: str) -> str:
    """Checks `provider/model`; a variable that is not set may stand for any part of it."""
    if REFERENCE.fullmatch(value) or "${" in value:
        return value
    raise ValueError("expected provider/model, such as openai/gpt-6-luna or ollama/qwen3:8b")


def variable_name(value: str) -> str:
    """Checks the name of an environment variable; 32 hex digits are a key that was put in its place."""
    if _VARIABLE.fullmatch(value) and not re.fullmatch(r"[0-9a-fA-F]{32,}", value):
        return value
    raise ValueError("expected the name of an environment variable, such as OPENAI_API_KEY, not the key itself")


def keep_alive(value: Any) -> Any:
    """Checks what Ollama takes: seconds as a whole number, or a time with its unit."""
    value = native(value)
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9.]+(ns|us|ms|s|m|h)([0-9.]+(ns|us|ms|s|m|h))*", value):
        raise ValueError("expected seconds, or a time such as 10m; -1 for ever, 0 to unload at once")
    return value


def plain_json(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Checks that a JSON body can carry it."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("expected plain JSON values: text, numbers, true, false, null, lists, mappings") from None
    return value


def error_codes(value: tuple[str, ...]) -> tuple[str, ...]:
    """Checks the codes of failures that may go on to the next model."""
    known = {kind.code for kind in errors.ProviderError.__subclasses__()}
    known |= {errors.OutputInvalidError.code, errors.OutputTruncatedError.code, errors.LocalModelError.code}
    for code in value:
        if code not in known:
            raise UnknownNameError(f"unknown error code {shown(code)}", partial(did_you_mean, code, known))
    return value
