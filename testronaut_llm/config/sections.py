"""The small sections of `llm.yaml`: prices, limits, budget, cache, log.

The sentence under each field is its description in the reference page and in the JSON Schema.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from testronaut_llm.config.values import Bytes, Count, Flag, Limit, Native, Seconds, Usd

OnExceeded = Literal["stop", "local", "warn"]


class Section(BaseModel):
    """Base of all shapes: frozen, strict about types, and no key that is not known."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


class PriceConfig(Section):
    """What a model costs, in USD per million tokens."""

    input: Usd
    """USD per million prompt tokens."""
    output: Usd
    """USD per million answer tokens, reasoning included."""
    cache_read: Usd | None = None
    """USD per million prompt tokens that the provider had cached (default: the price of `input`)."""
    cache_write: Usd | None = None
    """USD per million prompt tokens that the provider put into its cache (default: the price of `input`)."""


class LimitConfig(Section):
    """How much at once; what does not fit waits, it does not fail. They hold for one process."""

    rpm: Count | None = None
    """Requests per minute (default: no limit)."""
    tpm: Count | None = None
    """Tokens per minute, prompt and answer together (default: no limit)."""
    concurrency: Count | None = None
    """Requests at the same time (default: one for a local model, no limit otherwise)."""


class BudgetConfig(Section):
    """How much may be spent, in USD; days and months are UTC. All processes that share a scope share its money."""

    per_call: Limit | None = None
    """USD for one call, its retries and fallbacks included."""
    per_day: Limit | None = None
    """USD for one day."""
    per_month: Limit | None = None
    """USD for one calendar month."""
    total: Limit | None = None
    """USD for ever."""
    on_exceeded: OnExceeded = "stop"
    """What happens to a call that does not fit: `stop` raises, `local` uses local models only, `warn` goes on."""
    scope: str | None = None
    """Whose money it is: files with the same scope share a budget (default: the path of this file)."""

    @property
    def spans_calls(self) -> bool:
        """True if it limits what several calls spend together."""
        return any(limit is not None for limit in (self.per_day, self.per_month, self.total))


class CacheConfig(Section):
    """How long answers are kept, and how many; the store is shared by all files of a user."""

    ttl: Seconds | None = 2_592_000.0
    """How long an answer is kept once stored, such as `12h` or `30d` (default: 30 days); `null` keeps it for ever."""
    size_limit: Bytes = 1024**3
    """Size of the store, such as `500MB` or `1GiB` (default: 1 GiB); the oldest answers leave first."""


class LogConfig(Section):
    """A file of JSON lines, only appended to: one for each call and one for each attempt. Processes may share it."""

    file: str
    """Path of the file; a relative one starts at the folder of this file. `~` is your home."""
    content: Flag = False
    """Also write prompts and answers, with known secrets blotted out (default: their length and hash only)."""
    max_bytes: Bytes = 10 * 1024**2
    """Without effect, and kept so that older files load: rotation is left to the system's tools, such as logrotate."""
    backups: Annotated[int, Field(ge=0, le=1000), Native] = 3
    """Without effect, as `max_bytes`."""
