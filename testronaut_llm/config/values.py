"""The kinds of values in `llm.yaml`: money, times, sizes, counts, names, references, and how text becomes one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from testronaut_llm import errors
from testronaut_llm.config.faults import FromEnvironment, UnknownNameError, shown
from testronaut_llm.support.money import exact
from testronaut_llm.support.text import did_you_mean, seconds_of

REFERENCE = re.compile(r"[A-Za-z0-9][\w.-]*/\S.*")
"""`provider/model`: the model's name may hold more slashes, colons, and whatever its server allows."""

_INT = re.compile(r"[-+]?[0-9]{1,40}|0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,9})?")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}

_AMOUNT = re.compile(r"[-+]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,2})?")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]*)")
_BYTES = (
    {"": 1}
    | {f"{prefix}b": 1000**power for power, prefix in enumerate(("", "k", "m", "g", "t"))}
    | {f"{prefix}ib": 1024**power for power, prefix in enumerate(("k", "m", "g", "t"), start=1)}
)


def scalar(text: str) -> str | int | float | bool | None:
    """Returns what YAML 1.2 makes of unquoted text, so that `off` and `2024-10-21` stay what they look like."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def native(value: Any) -> Any:
    """Returns what text from the environment stands for, so that `${RETRIES}` can be a number."""
    plain = scalar(str(value)) if isinstance(value, FromEnvironment) else value
    return value if isinstance(plain, str) else plain


def _usd(value: Any) -> Any:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return Decimal(str(value))
    if isinstance(value, str) and _AMOUNT.fullmatch(value):
        return Decimal(value)
    mend = "write the number alone, such as 0.25; US dollars are understood"
    if isinstance(value, str) and re.search(r"[$€£¥]|[A-Za-z]{3}\b", value) and (n := re.search(r"\d+(\.\d+)?", value)):
        mend = f"write the number alone, {n[0]}, in US dollars; no currency sign"
    raise ValueError(f"expected an amount of money: {mend}")


def _measured(value: Any, read: Callable[[str], float | None], example: str) -> float:
    value = native(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    if isinstance(value, str) and (found := read(value)) is not None:
        return found
    raise ValueError(f"expected {example}")


@exact
def _bytes_of(text: str) -> float | None:
    found = _SIZE.fullmatch(text)
    factor = _BYTES.get(found[2].lower()) if found else None
    return float(Decimal(found[1]) * factor) if found and factor else None


def seconds(value: Any) -> float:
    """Returns the seconds of a number or of text such as `90s`, `10m`, `2w`. Raises ValueError: it is neither."""
    return float(_measured(value, seconds_of, "a time: seconds, or a number with ms, s, m, h, d or w, such as 30d"))


def size_in_bytes(value: Any) -> int:
    """Returns the bytes of a number, of `500MB` (1000s) or of `1GiB` (1024s). Raises ValueError: it is neither."""
    return int(_measured(value, _bytes_of, "a size: bytes, or a number with kB, MB, GB, KiB, MiB or GiB, such as 1GiB"))


def _listed(value: Any) -> Any:
    """One name stands for a list of one."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _reference(value: str) -> str:
    if REFERENCE.fullmatch(value) or "${" in value:
        return value
    raise ValueError("expected provider/model, such as openai/gpt-6-luna or ollama/qwen3:8b")


def _variable_name(value: str) -> str:
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) and not re.fullmatch(r"[0-9a-fA-F]{32,}", value):
        return value
    raise ValueError("expected the name of an environment variable, such as OPENAI_API_KEY, not the key itself")


def _keep_alive(value: Any) -> Any:
    value = native(value)
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9.]+(ns|us|ms|s|m|h)([0-9.]+(ns|us|ms|s|m|h))*", value):
        raise ValueError("expected seconds, or a time such as 10m; -1 for ever, 0 to unload at once")
    return value


def _plain_json(value: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("expected plain JSON values: text, numbers, true, false, null, lists, mappings") from None
    return value


def _error_codes(value: tuple[str, ...]) -> tuple[str, ...]:
    known = {kind.code for kind in errors.ProviderError.__subclasses__()}
    known |= {errors.OutputInvalidError.code, errors.OutputTruncatedError.code, errors.LocalModelError.code}
    for code in value:
        if code not in known:
            raise UnknownNameError(f"unknown error code {shown(code)}", partial(did_you_mean, code, known))
    return value


_NUMBER_OR_TEXT = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": "^[0-9]"}]}

Native = BeforeValidator(native)
"""Stands last in `Annotated`, so that bounds before it reach the JSON Schema."""

Flag = Annotated[bool, Native]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63), Native]
Count = Annotated[int, Field(gt=0, le=10**9), Native]
Grade = Annotated[int, Field(ge=1, le=10), Native]
Usd = Annotated[
    Decimal,
    BeforeValidator(_usd),
    Field(ge=0, allow_inf_nan=False),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^[0-9]"}]}),
]
Limit = Annotated[
    Decimal, BeforeValidator(_usd), Field(gt=0, allow_inf_nan=False), WithJsonSchema(dict(_NUMBER_OR_TEXT))
]
Seconds = Annotated[float, BeforeValidator(seconds), Field(gt=0, le=10**10), WithJsonSchema(dict(_NUMBER_OR_TEXT))]
Bytes = Annotated[int, BeforeValidator(size_in_bytes), Field(gt=0, lt=2**63), WithJsonSchema(dict(_NUMBER_OR_TEXT))]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Reference = Annotated[str, AfterValidator(_reference)]
"""`provider/model`; a variable that is not set may stand for any part of it."""
VariableName = Annotated[str, AfterValidator(_variable_name)]
"""The name of an environment variable; 32 hex digits are a key that was put in its place."""
KeepAlive = Annotated[str | int | None, BeforeValidator(_keep_alive)]
"""What Ollama takes: seconds as a whole number, or a time with its unit."""
PlainJson = Annotated[Mapping[str, Any], AfterValidator(_plain_json)]
"""A mapping that a JSON body can carry."""
ErrorCodes = Annotated[Names, AfterValidator(_error_codes)]
"""The codes of failures that may go on to the next model."""
