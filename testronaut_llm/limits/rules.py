"""The limits of a model: those of `llm.yaml` for itself, its provider and its endpoint."""

from __future__ import annotations

from dataclasses import dataclass

from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.providers.endpoint import endpoint_of
from testronaut_llm.providers.provider_registry import is_local, provider_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A limit of a model: requests and tokens (prompt and answer) a minute, concurrent requests.

    Rules of the same name (as in `llm.yaml`: `limits.openai`) share the limit. An `implied` one is a default.
    """

    name: str
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    implied: bool = False

    def __str__(self) -> str:
        limits = {"rpm": self.rpm, "tpm": self.tpm, "concurrency": self.concurrency}
        parts = ", ".join(f"{name}: {limit:,}" for name, limit in limits.items() if limit)
        return f"{self.name} ({parts}{', by default' if self.implied else ''})"


def rules_of(config: LLMConfig, model: ModelConfig) -> tuple[Rule, ...]:
    """Returns the limits of a model. A model server on this machine gets one request at a time by default.

    Raises:
        ConfigError: the provider is unknown.
    """
    provider = provider_of(model)
    if model.limits is None and not config.limits and not provider.local:
        return ()
    base = endpoint_of(model, provider).url or ""
    found = {f"models.{model.alias}.limits": model.limits} if model.limits else {}
    for name, limits in config.limits.items():
        if name in (model.provider, provider.name) or _is_under(base, name):
            found[f"limits.{name}"] = limits
    rules = [Rule(name=name, rpm=one.rpm, tpm=one.tpm, concurrency=one.concurrency) for name, one in found.items()]
    if provider.local and is_local(model) and all(rule.concurrency is None for rule in rules):
        rules.append(Rule(name=base or provider.name, concurrency=1, implied=True))
    return tuple(rules)


def at_once(config: LLMConfig, model: ModelConfig) -> int:
    """Returns how many concurrent requests a model server on this machine may get."""
    return min((rule.concurrency for rule in rules_of(config, model) if rule.concurrency is not None), default=1)


def key_of(model: ModelConfig) -> str:
    """Returns the name for pauses and cooldowns of a model. Another model under the same alias has another one."""
    return f"{model.alias} ({model.model})"


def _is_under(base: str, name: str) -> bool:
    """True if the name is the URL of an endpoint, with or without the path that its wire appends."""
    url = name.rstrip("/")
    return "://" in url and bool(base) and (f"{base}/".startswith(f"{url}/") or url.startswith(f"{base}/"))
