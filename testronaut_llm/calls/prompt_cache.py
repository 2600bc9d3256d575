"""Does `prompt_cache` do what it should? A prefix below a model's minimum is not cached, and no provider says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testronaut_llm.support.log import logger

if TYPE_CHECKING:
    from testronaut_llm.model_config import ModelConfig
    from testronaut_llm.prices import PriceTable
    from testronaut_llm.records import Call, Usage


_PREFIXES = 1000


class PrefixWatch:
    """Warns once of each model and prefix that a second answer shows to be neither read from the cache nor written."""

    def __init__(self) -> None:
        self._uncached: dict[tuple[str, int], int] = {}

    def answered(self, call: Call, model: ModelConfig, usage: Usage, prices: PriceTable) -> None:
        """Takes what an answer reported."""
        stable = tuple(message.content for message in call.messages if message.role == "system")
        if not call.prompt_cache or model.provider != "anthropic" or usage.estimated:
            return
        if len(self._uncached) > _PREFIXES:
            self._uncached.clear()
        key = (model.alias, hash(stable))
        cached = usage.cached_tokens + usage.cache_write_tokens
        self._uncached[key] = 0 if cached else self._uncached.get(key, 0) + 1
        if self._uncached[key] == 2:
            least = prices.facts(model).prompt_cache_min_tokens
            logger().warning(
                "prompt_not_cached",
                task=call.task,
                model=model.alias,
                cause="there is no system text" if not any(stable) else "the system text is too short for this model",
                least_tokens=least,
                mend=f"put what never changes into `system`, or set tasks.{call.task}.prompt_cache to false",
            )
