"""Types of the values in `llm.yaml` (money, times, sizes, names), and its small sections."""

import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from testronaut_llm.config.problems import FromEnvironment
from testronaut_llm.support.text import exact, seconds_of

REFERENCE = re.compile(r"[A-Za-z0-9][\w.-]*/\S.*")
"""`provider/model`; the model's name may contain slashes, colons, and whatever its server allows."""

_MODEL = rf"{REFERENCE.pattern}|(?s:.*\$\{{.*)"  # a variable that is not set may stand for any part of it
_VARIABLE = r"(?![0-9a-fA-F]{32,}$)[A-Za-z_][A-Za-z0-9_]*"  # 32 hex digits are a key that was put in its place
_INT = re.compile(r"[-+]?[0-9]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,9})?")
_WORDS: dict[str, bool | None] = {"null": None, "true": True, "false": False}
_CONSTANTS = {form: value for word, value in _WORDS.items() for form in (word, word.title(), word.upper())}
_AMOUNT = re.compile(r"[-+]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,2})?")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(?:([kmgt]?)(i?)b)?", re.IGNORECASE)


def scalar(text: str) -> str | int | float | bool | None:
    """Returns the value of unquoted text as in YAML 1.2 (`off` and `2024-10-21` are texts), of decimal numbers only."""
    if text in ("", "~") or text in _CONSTANTS:
        return _CONSTANTS.get(text)
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def native(value: Any) -> Any:
    """Returns the value of a text from the environment, so that `${RETRIES}` can be a number."""
    plain = scalar(str(value)) if isinstance(value, FromEnvironment) else value
    return value if isinstance(plain, str) else plain


def _usd(value: Any) -> Any:
    if isinstance(value, str | int | float | Decimal) and _AMOUNT.fullmatch(str(value)):
        return Decimal(str(value))
    raise ValueError("expected an amount of money: write the number of US dollars alone, such as 0.25")


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
    if not found or (found[3] and not found[2]):
        return None
    power = "kmgt".index(found[2].lower()) + 1 if found[2] else 0
    return float(Decimal(found[1]) * (1024 if found[3] else 1000) ** power)


def seconds(value: Any) -> float:
    """Returns the seconds of a number or of text such as `90s`, `10m`, `2w`. Raises ValueError: it is neither."""
    return float(_measured(value, seconds_of, "a time: seconds, or a number with ms, s, m, h, d or w, such as 30d"))


def size_in_bytes(value: Any) -> int:
    """Returns the bytes of a number, of `500MB` (1000s) or of `1GiB` (1024s). Raises ValueError: it is neither."""
    return int(_measured(value, _bytes_of, "a size: bytes, or a number with kB, MB, GB, KiB, MiB or GiB, such as 1GiB"))


def _listed(value: Any) -> Any:
    """Returns a single name as a list of one."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _matching(pattern: str, example: str) -> AfterValidator:
    def check(text: str) -> str:
        if re.fullmatch(pattern, text):
            return text
        raise ValueError(f"expected {example}")

    return AfterValidator(check)


def _keep_alive(value: Any) -> Any:
    value = native(value)
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9.]+(ns|us|ms|s|m|h)([0-9.]+(ns|us|ms|s|m|h))*", value):
        raise ValueError("expected seconds, or a time such as 10m; -1 without end, 0 to unload at once")
    return value


def _plain_json(value: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("expected plain JSON values: text, numbers, true, false, null, lists, mappings") from None
    return value


_DIGITS = {"type": "string", "pattern": "^[0-9]"}
_NUMBER_OR_TEXT = WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _DIGITS]})
_TEXT_OR_TEXTS = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})

Native = BeforeValidator(native)
"""Stands last in `Annotated`, so that bounds before it reach the JSON Schema."""
Flag = Annotated[bool, Native]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63), Native]
Count = Annotated[int, Field(gt=0, le=10**9), Native]
Grade = Annotated[int, Field(ge=1, le=10), Native]
_FREE_OR_MORE = WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, _DIGITS]})
Usd = Annotated[Decimal, BeforeValidator(_usd), Field(ge=0, allow_inf_nan=False), _FREE_OR_MORE]
Limit = Annotated[Decimal, BeforeValidator(_usd), Field(gt=0, allow_inf_nan=False), _NUMBER_OR_TEXT]
Seconds = Annotated[float, BeforeValidator(seconds), Field(gt=0, le=10**10), _NUMBER_OR_TEXT]
Bytes = Annotated[int, BeforeValidator(size_in_bytes), Field(gt=0, lt=2**63), _NUMBER_OR_TEXT]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed), _TEXT_OR_TEXTS]
Reference = Annotated[str, _matching(_MODEL, "provider/model, such as openai/gpt-6-luna or ollama/qwen3:8b")]
VariableName = Annotated[str, _matching(_VARIABLE, "the name of an environment variable, such as OPENAI_API_KEY")]
KeepAlive = Annotated[str | int | None, BeforeValidator(_keep_alive)]
PlainJson = Annotated[Mapping[str, Any], AfterValidator(_plain_json)]
ErrorCode = Literal[
    "authentication", "bad_response", "connection_failed", "content_filter", "context_window", "invalid_output",
    "invalid_request", "local_model", "model_not_found", "overloaded", "permission_denied", "quota", "rate_limit",
    "server_error", "timeout", "truncated",
]  # fmt: skip
ErrorCodes = Annotated[tuple[ErrorCode, ...], BeforeValidator(_listed), _TEXT_OR_TEXTS]
OnExceeded = Literal["stop", "local", "warn"]
CacheMode = Literal["use", "refresh", "off", "only"]
Secrets = Literal["mask", "refuse", "allow"]


class Section(BaseModel):
    """Base of all sections: frozen, strict types, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


class PriceConfig(Section):
    """Price of a model, in USD per million tokens."""

    input: Usd
    """USD per million prompt tokens."""
    output: Usd
    """USD per million answer tokens, reasoning included."""
    cache_read: Usd | None = None
    """USD per million prompt tokens that the provider read from its cache (default: the price of `input`)."""
    cache_write: Usd | None = None
    """USD per million prompt tokens that the provider wrote to its cache (default: the price of `input`)."""


class LimitConfig(Section):
    """Limits of one process. A request that does not fit waits; it does not fail."""

    rpm: Count | None = None
    """Requests per minute (default: no limit)."""
    tpm: Count | None = None
    """Tokens per minute, prompt and answer together (default: no limit)."""
    concurrency: Count | None = None
    """Concurrent requests (default: one for a local model, no limit otherwise)."""


class BudgetConfig(Section):
    """Limits of spend, in USD; days and months are UTC. All processes with the same scope share a budget."""

    per_call: Limit | None = None
    """USD for one call, its retries and fallbacks included."""
    per_day: Limit | None = None
    """USD for one day."""
    per_month: Limit | None = None
    """USD for one calendar month."""
    total: Limit | None = None
    """USD in total, without an end."""
    on_exceeded: OnExceeded = "stop"
    """For a call that does not fit: `stop` raises, `local` uses local models only, `warn` goes on."""
    scope: str | None = None
    """Name of the budget: files with the same scope share it (default: the path of this file)."""

    @property
    def spans_calls(self) -> bool:
        """True if it limits what several calls spend together."""
        return any(limit is not None for limit in (self.per_day, self.per_month, self.total))


class CacheConfig(Section):
    """Lifetime of stored answers, and size of the store; all files of a user share it."""

    ttl: Seconds | None = 2_592_000.0
    """Lifetime of a stored answer, such as `12h` or `30d` (default: 30 days); `null`: without end."""
    size_limit: Bytes = 1024**3
    """Size of the store, such as `500MB` or `1GiB` (default: 1 GiB); the oldest answers are deleted first."""


class LogConfig(Section):
    """A file of JSON lines, one per call and one per attempt, only appended to. Processes may share it."""

    file: str
    """Path of the file; a relative one starts at the folder of this file. `~` is your home."""
    content: Flag = False
    """Also write prompts and answers, with known secrets masked (default: their length and hash only)."""
