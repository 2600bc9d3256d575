"""Measures the speed of a local model on this machine, and stores the last result of each model for routes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field, TypeAdapter

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LLMError, LocalModelError
from testronaut_llm.local.download import file_lock
from testronaut_llm.providers.endpoint import endpoint_of
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.support import paths
from testronaut_llm.support.paths import write_atomically

if TYPE_CHECKING:
    from testronaut_llm.llm_manager import LLMManager

PROMPT_WORDS, ANSWER_TOKENS = 300, 96

Rate = Annotated[float, Field(gt=0)]  # a route divides by it


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Medians of one measurement: seconds, and tokens a second."""

    model: str  # `provider/name`
    at: str  # ISO 8601 in UTC
    load: float | None  # until a model that was not in memory could answer
    first: float  # to the first token of the answer to a prompt of `prompt_tokens`
    prompt_tokens: int
    prompt_rate: Rate
    answer_rate: Rate

    def seconds(self, prompt: int, answer: int) -> float:
        """Returns how long an answer of so many tokens to a prompt of so many takes, with the model in memory."""
        return prompt / self.prompt_rate + answer / self.answer_rate


_ROWS = TypeAdapter(dict[str, list[Speed]])  # ignores fields of other versions


class SpeedHistory:
    """The last measurement of each model on each server. A file that cannot be read counts as empty."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or paths.data_dir() / "speeds.json"

    def latest(self, model: ModelConfig) -> Speed | None:
        """Returns the last measurement, or None."""
        return next(reversed(self._read().get(_key(model), ())), None)

    def words(self, name: str, api_base: str | None = None) -> str:
        """Returns the tokens a second of the last measurement of `provider/name`; empty if there is none."""
        speed = self.latest(ModelConfig(alias=name, model=name, api_base=api_base))
        return f"{speed.answer_rate:,.0f} tokens/s" if speed else ""

    def add(self, model: ModelConfig, speed: Speed) -> None:
        """Stores a measurement in place of the last one. Raises OSError: the file cannot be written."""
        with file_lock(self.path.with_suffix(".lock")):
            kept = {**self._read(), _key(model): [speed]}
            rows = {key: [asdict(one) for one in speeds] for key, speeds in kept.items()}
            write_atomically(self.path, json.dumps({"version": 1, "models": rows}, indent=1) + "\n")

    def _read(self) -> dict[str, list[Speed]]:
        try:
            return _ROWS.validate_python(json.loads(self.path.read_text("utf-8"))["models"])
        except (OSError, ValueError, LookupError, TypeError):
            return {}


def _key(model: ModelConfig) -> str:
    """Returns a key with the server: the same name on two servers is two models."""
    provider = provider_of(model)
    base = None if provider.name == "embedded" else endpoint_of(model, provider).url
    return f"{model.model}@{base}" if base else model.model


def bench(llm: LLMManager, *, rounds: int = 3, report: Callable[[str], None] = print) -> Speed:
    """Measures the model `it` of a manager that `verify.alone` configured: the medians of `rounds`.

    Each round is two calls, to separate reading from writing: one for a single token, and one for a longer answer.

    Raises:
        LLMError: the model cannot be loaded or asked.
    """
    from testronaut_llm.local.ollama_provider import OllamaServer
    from testronaut_llm.local.verify import loading_time, makes_vectors

    model = llm.config.model("it")
    if makes_vectors(model):
        raise LocalModelError(f"{model.model} is an embedding model: it has no tokens a second to measure")
    if provider_of(model).name == "ollama":
        with OllamaServer.of(model) as server:
            server.load(model.name, keep_alive=0)  # out of memory, so that the load can be measured
    report(f"{model.model}: loading")
    load, reads, writes = loading_time(llm), [], []
    _asked(llm, 2 * rounds, 1)  # not measured: it opens connections
    for number in range(rounds):
        report(f"{model.model}: round {number + 1} of {rounds}")
        read, wrote = _asked(llm, 2 * number, 1), _asked(llm, 2 * number + 1, ANSWER_TOKENS)
        reads.append(read)
        if wrote.tokens > 1 and wrote.seconds > read.seconds:
            writes.append((wrote.tokens - 1) / (wrote.seconds - read.seconds))
    if not writes:
        raise LocalModelError(f"{model.model} gave no answer long enough to time; see: testronaut-llm models verify")
    return Speed(
        model=model.model,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        load=load,
        first=statistics.median(one.seconds for one in reads),
        prompt_tokens=round(statistics.median(one.prompt for one in reads)),
        prompt_rate=statistics.median(one.prompt / one.seconds for one in reads),
        answer_rate=statistics.median(writes),
    )


class _Asked(NamedTuple):
    prompt: int
    tokens: int
    seconds: float


def _asked(llm: LLMManager, number: int, most: int) -> _Asked:
    """Asks for up to `most` tokens. An answer that was cut, or spent on thinking, is measured like any other."""
    from testronaut_llm.local.verify import WORDS

    words = WORDS.split()  # prompts begin differently, or the server would answer from its prompt cache
    prompt = " ".join(words[(number * 31 + n * (number + 1)) % len(words)] for n in range(PROMPT_WORDS))
    try:
        attempts = llm.complete("lenient", prompt, max_tokens=most).attempts
    except LLMError as error:
        attempts = error.attempts
        if not any(one.usage for one in attempts):
            raise
    usage, seconds = next((one.usage, one.latency) for one in attempts if one.usage)
    return _Asked(usage.prompt_tokens, usage.completion_tokens, max(seconds, 1e-6))
