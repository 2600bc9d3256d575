"""The limits of a model by `llm.yaml`, and the state of each: its requests of the last minute, and its cooldown.

A model that fails several times in a row gets no requests during a cooldown. Then one request is sent, which ends the
cooldowns or starts a longer one.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.providers.provider import endpoint_of
from testronaut_llm.providers.provider_registry import is_local, provider_of

MINUTE = 60.0

FAILURES = 5
"""Failures in a row after which a cooldown starts."""

FIRST_COOLDOWN, LONGEST_COOLDOWN = 5.0, 60.0
"""First and longest cooldown in seconds. A request that fails after a cooldown doubles the next one."""


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
    """Returns the limits of a model. A model server on this machine gets one request at a time by default."""
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
    """Returns the name for pauses and cooldowns of a model. Another model with this alias gets another name."""
    return f"{model.alias} ({model.model})"


def _is_under(base: str, name: str) -> bool:
    """True if the name is the URL of an endpoint, with or without the path that its wire appends."""
    url = name.rstrip("/")
    return "://" in url and bool(base) and (f"{base}/".startswith(f"{url}/") or url.startswith(f"{base}/"))


@dataclass(slots=True, eq=False)
class Use:
    """One request of the last minute; its `tokens` are an upper bound until they are `known`."""

    at: float
    tokens: int
    known: bool = False


@dataclass(slots=True, eq=False)
class Gate:
    """One limit, or one model. Times are seconds on the clock of the limiter."""

    rule: Rule
    uses: deque[Use] = field(default_factory=deque)  # of the last minute, maybe longer
    tokens: int = 0  # the sum of those
    running: int = 0  # requests under way
    paused_until: float = 0.0  # as the provider asked
    failures: int = 0  # temporary failures in a row: no reply, 429, 5xx
    last_failure: str = ""
    cooldowns: int = 0  # in a row; 0 while the model works
    cooldown_until: float = 0.0

    def take(self, tokens: int, now: float) -> Use:
        """Starts a request. One that is larger than the limit counts as the limit, since it would never fit."""
        while self.uses and self.uses[0].at + MINUTE <= now:
            gone = self.uses.popleft()
            self.tokens, gone.known = self.tokens - gone.tokens, True
        use = Use(now, min(tokens, self.rule.tpm or tokens))
        self.uses.append(use)
        self.running, self.tokens = self.running + 1, self.tokens + use.tokens
        return use

    def give_back(self, use: Use, tokens: int | None, *, sent: bool) -> None:
        """Ends a request that used so many tokens (None: unknown). It counts if it was sent."""
        self.running -= 1
        if use.known or (sent and tokens is None):
            return
        used = min(tokens or 0, self.rule.tpm or tokens or 0) if sent else 0
        self.tokens += used - use.tokens
        use.tokens, use.known = used, True
        if not sent:
            self.uses.remove(use)

    def wait(self, tokens: int, now: float, *, ahead: int = 0, at_least: bool = False) -> float:
        """Returns the seconds until a request may be sent; inf if only the end of another one makes room.

        With `at_least`, the shortest wait, with so many requests in line `ahead`: those under way may end at any time,
        and count no tokens, since most use less than their upper bound.
        """
        rpm, tpm, wait = self.rule.rpm, self.rule.tpm, self.pause(now)
        most = 1 if self.cooldowns else self.rule.concurrency  # after a cooldown one request finds out
        if not at_least and most is not None and self.running >= most:
            return math.inf
        if rpm is None and tpm is None:
            return wait
        uses = tuple(self.uses)  # a copy, since a dry run reads in another thread
        if rpm is not None and len(uses) + ahead >= rpm:
            wait = max(wait, _until([(use.at, 1) for use in uses], ahead + 1, rpm, now))
        if tpm is not None and self.tokens + min(tokens, tpm) > tpm:
            counted = [(use.at, use.tokens) for use in uses if use.known or not at_least]
            wait = max(wait, _until(counted, min(tokens, tpm), tpm, now))
        return wait

    def pause(self, now: float) -> float:
        """Returns the seconds left of the provider's pause, or of the cooldown."""
        return max(0.0, max(self.paused_until, self.cooldown_until if self.cooldowns else 0.0) - now)

    def failed(self, code: str, now: float, *, asked: float, probe: bool) -> None:
        """Counts a failure; the provider `asked` for so many seconds of pause.

        After a cooldown only a failure of the `probe`, the one request that was sent, counts.
        """
        self.failures, self.last_failure = self.failures + 1, code
        if probe if self.cooldowns else self.failures >= FAILURES:
            self.cooldowns += 1
            self.cooldown_until = now + max(asked, min(LONGEST_COOLDOWN, FIRST_COOLDOWN * 2.0 ** (self.cooldowns - 1)))

    def words(self, now: float) -> str:
        """Returns the name of what a request waits for: `limits.openai (rpm: 500)`."""
        if self.cooldowns:
            return f"its cooldown after {self.failures} failures in a row (last: {self.last_failure})"
        return "the pause that its provider asks for" if self.paused_until > now else str(self.rule)


def _until(uses: list[tuple[float, int]], needed: int, limit: int, now: float) -> float:
    """Returns the seconds until `needed` more fit under a limit a minute; `uses` are (time, amount), oldest first."""
    minutes, needed = divmod(max(needed, 1) - 1, limit)  # requests before it use some of the limit first
    over, wait = sum([amount for _, amount in uses]) + needed + 1 - limit, 0.0
    for at, amount in uses:
        if over <= 0:
            break
        over, wait = over - amount, max(0.0, at + MINUTE - now)
    return wait + MINUTE * minutes
