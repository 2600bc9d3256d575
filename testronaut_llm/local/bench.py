"""Measures how fast a local model is on this machine, and keeps the last result of each model for routes.

The servers themselves report how long they read and wrote. They are asked without LiteLLM, which drops that; Ollama
is loaded as calls load it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.download import held
from testronaut_llm.providers.provider_registry import api_base_of, provider_of
from testronaut_llm.support import paths
from testronaut_llm.support.paths import write_atomically

if TYPE_CHECKING:
    from testronaut_llm.llm_manager import LLMManager

PROMPT_WORDS, ANSWER_TOKENS = 300, 96

Rate = Annotated[float, Field(gt=0)]  # a file that says 0 is not believed: a route would divide by it


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The result of one measurement: medians of its rounds. Unknown values are None."""

    model: str  # `provider/name`
    at: str  # ISO 8601 in UTC
    source: str  # the server that measured: `ollama` or `llama.cpp`
    load: float | None  # seconds until a model that was not in memory could answer
    first: float  # seconds to the first token of the answer to a prompt of `prompt_tokens`
    prompt_tokens: int
    prompt_rate: Rate  # tokens read a second
    answer_rate: Rate  # tokens written a second, one request at a time
    memory: int | None = None  # bytes, at most
    at_once: int = 1  # requests at the same time in the last round, 1 where there was none
    rate_at_once: float | None = None  # tokens written a second by all of them together

    def seconds(self, prompt: int, answer: int) -> float:
        """Returns how long an answer of so many tokens to a prompt of so many takes, with the model in memory."""
        return prompt / self.prompt_rate + answer / self.answer_rate


_ROWS = TypeAdapter(dict[str, list[Speed]])  # leaves out fields that only another version knows


class SpeedHistory:
    """The last measurement of each model on each server. A file that cannot be read counts as empty."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or paths.data_dir() / "speeds.json"

    def latest(self, model: ModelConfig) -> Speed | None:
        """Returns the last measurement, or None where there is none."""
        return next(reversed(self._read().get(_key(model), ())), None)

    def words(self, name: str, api_base: str | None = None) -> str:
        """Returns the tokens a second of the last measurement of `provider/name`; empty if there is none."""
        speed = self.latest(ModelConfig(alias=name, model=name, api_base=api_base))
        return f"{speed.answer_rate:,.0f} tokens/s" if speed else ""

    def add(self, model: ModelConfig, speed: Speed) -> None:
        """Stores a measurement in place of the last one. Raises OSError: the file cannot be written."""
        with held(self.path.with_suffix(".lock")):
            kept = {**self._read(), _key(model): [speed]}
            rows = {key: [asdict(one) for one in speeds] for key, speeds in kept.items()}
            write_atomically(self.path, json.dumps({"version": 1, "models": rows}, indent=1) + "\n")

    def _read(self) -> dict[str, list[Speed]]:
        try:
            return _ROWS.validate_python(json.loads(self.path.read_text("utf-8"))["models"])
        except (OSError, ValueError, LookupError, TypeError):
            return {}


def _key(model: ModelConfig) -> str:
    """The same name on two servers is two models."""
    provider = provider_of(model)
    base = None if provider.name == "embedded" else api_base_of(model, provider)
    return f"{model.model}@{base}" if base else model.model


class Round(NamedTuple):
    """One request: tokens read and written, and seconds for each."""

    read: float
    wrote: float
    reading: float
    writing: float


class _Server(NamedTuple):
    """A model on a server: how it is loaded (in seconds), asked, and how many bytes it takes now."""

    source: str
    load: Callable[[], float]
    ask: Callable[[str], Round]
    memory: Callable[[], int | None]


def bench(llm: LLMManager, *, rounds: int = 3, at_once: int = 1, told: Callable[[str], None] = print) -> Speed:
    """Measures the model `it` of a manager that `verify.alone` configured.

    The median of `rounds` requests counts, one after the other; one more round has `at_once` at the same time, where
    that is more than one. `told` gets the progress.

    Raises:
        LLMError: the model cannot be loaded or asked.
    """
    from testronaut_llm.local.verify import makes_vectors

    model = llm.config.model("it")
    if makes_vectors(model):
        raise LocalModelError(f"{model.model} makes vectors, no text: there are no tokens a second to measure")
    serving = _ollama if provider_of(model).name == "ollama" else _embedded
    with serving(llm, model) as server:
        told(f"{model.model}: loading")
        load = server.load()
        alone: list[Round] = []
        for number in range(rounds):
            told(f"{model.model}: round {number + 1} of {rounds}")
            alone.append(server.ask(_prompt(number)))
        together = None
        if at_once > 1:
            told(f"{model.model}: {at_once} at once")
            together = _together(server, [_prompt(rounds + number) for number in range(at_once)])
        wrote = [one for one in alone if one.wrote > 1 and one.writing > 0]
        if not wrote:
            raise LocalModelError(
                f"{model.model} answered with no more than one token; see: testronaut-llm models verify"
            )
        return Speed(
            model=model.model,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            source=server.source,
            load=load,
            first=statistics.median(one.reading for one in alone),
            prompt_tokens=round(statistics.median(one.read for one in alone)),
            prompt_rate=statistics.median(one.read / max(one.reading, 1e-6) for one in alone),
            answer_rate=statistics.median((one.wrote - 1) / one.writing for one in wrote),
            memory=server.memory(),
            at_once=at_once,
            rate_at_once=together,
        )


def _together(server: _Server, prompts: Sequence[str]) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(len(prompts)) as pool:
        tokens = sum(one.wrote for one in pool.map(server.ask, prompts))
    return tokens / (time.perf_counter() - began)


def _prompt(number: int) -> str:
    """No prompt begins like another, or the server would have its beginning in its cache."""
    from testronaut_llm.local.verify import WORDS

    words = WORDS.split()
    return " ".join(words[(number * 31 + n * (number + 1)) % len(words)] for n in range(PROMPT_WORDS))


@contextmanager
def _embedded(llm: LLMManager, model: ModelConfig) -> Iterator[_Server]:
    import httpx

    from testronaut_llm.limits.rules import at_once
    from testronaut_llm.local.local_provider import EmbeddedRunner
    from testronaut_llm.providers.network import client_settings

    runner, slots = EmbeddedRunner(), at_once(llm.config, model)

    def load() -> float:
        began = time.perf_counter()
        runner.endpoint(model, slots=slots)
        return time.perf_counter() - began

    def ask(prompt: str) -> Round:
        endpoint = runner.endpoint(model, slots=slots)
        body = {"messages": _messages(prompt), "max_tokens": ANSWER_TOKENS, "temperature": 0}
        headers = {"Authorization": f"Bearer {endpoint.token}"}
        settings = client_settings(endpoint.api_base)
        try:
            url = f"{endpoint.api_base}/chat/completions"
            said = httpx.post(url, json=body, headers=headers, timeout=600, **settings).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise runner.crash(endpoint.api_base) or LocalModelError(f"{model.model} did not answer: {error}") from None
        read, wrote, reading, writing = _numbers(
            said.get("timings") or {}, ("prompt_n", "predicted_n", "prompt_ms", "predicted_ms")
        )
        return Round(read, wrote, reading / 1e3, writing / 1e3)

    try:
        yield _Server("llama.cpp", load, ask, runner.memory)
    finally:
        runner.close()


@contextmanager
def _ollama(llm: LLMManager, model: ModelConfig) -> Iterator[_Server]:
    from testronaut_llm.local.ollama_body import chat_body, usual_window, window
    from testronaut_llm.local.ollama_provider import OllamaServer
    from testronaut_llm.local.verify import seconds_to_load

    most = llm.route(None, "?").candidates[0].context_window
    own = {"num_predict": ANSWER_TOKENS, "temperature": 0}
    num_ctx = window(model, usual_window(llm.config, model), most=most)
    body = chat_body(model, own, num_ctx=num_ctx, extra={}, thinks=False)
    with OllamaServer.of(model) as server:

        def load() -> float:
            server.unload(model.name)
            return seconds_to_load(llm)

        def ask(prompt: str) -> Round:
            said = server.chat({**body, "model": model.name, "messages": _messages(prompt)})
            read, wrote, reading, writing = _numbers(
                said, ("prompt_eval_count", "eval_count", "prompt_eval_duration", "eval_duration")
            )
            return Round(read, wrote, reading / 1e9, writing / 1e9)

        def memory() -> int | None:
            loaded = server.find_loaded(model.name)
            return loaded.size if loaded else None

        yield _Server("ollama", load, ask, memory)


def _messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _numbers(said: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    return [value if isinstance(value := said.get(name), int | float) else 0 for name in names]
