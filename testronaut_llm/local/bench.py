"""How fast is a local model on this machine? Loads it, asks it some rounds, alone and several at once.

An embedded model is asked through the same door as any call. Ollama is asked without LiteLLM, for the durations that it
reports and LiteLLM drops; what it is asked and loaded with is what calls send.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import embedded_child
from testronaut_llm.local.inspection import makes_vectors
from testronaut_llm.local.ollama_body import chat_body, usual_window, window
from testronaut_llm.local.ollama_provider import OllamaServer
from testronaut_llm.local.speeds import Speed
from testronaut_llm.local.verify import WORDS, seconds_to_load
from testronaut_llm.providers.provider_registry import provider_of

if TYPE_CHECKING:
    from testronaut_llm.llm_manager import LLMManager

PROMPT_WORDS, ANSWER_TOKENS = 300, 96
NANO = 1e9
COUNTS = ("prompt_eval_count", "eval_count", "prompt_eval_duration", "eval_duration")


class Round(NamedTuple):
    """One request: tokens read and written, seconds to the first token, seconds for the others."""

    prompt_tokens: int
    answer_tokens: int
    first: float
    rest: float


def bench(llm: LLMManager, *, rounds: int = 3, at_once: int = 1, told: Callable[[str], None] = print) -> Speed:
    """Measures the model `it` of a manager that `trials.verify.alone` configured.

    Of `rounds` requests, one after the other, the median counts; one more round has `at_once` at the same time, where
    that is more than one. What goes on is `told`.

    Raises:
        LLMError: the model cannot be loaded or asked.
    """
    model = llm.config.model("it")
    if makes_vectors(model):
        raise LocalModelError(f"{model.model} makes vectors, no text: there are no tokens a second to measure")
    if provider_of(model).name == "ollama":
        with OllamaServer.of(model) as server:
            return _measure(_Ollama(server, llm), model, rounds, at_once, told)
    return _measure(_Embedded(llm), model, rounds, at_once, told)


def _measure(
    meter: _Ollama | _Embedded, model: ModelConfig, rounds: int, at_once: int, told: Callable[[str], None]
) -> Speed:
    told(f"{model.model}: loading")
    load = meter.load()
    alone: list[Round] = []
    for number in range(rounds):
        told(f"{model.model}: round {number + 1} of {rounds}")
        alone.append(meter.ask(_prompt(number)))
    together = None
    if at_once > 1:
        told(f"{model.model}: {at_once} at once")
        together = _together(meter, [_prompt(rounds + number) for number in range(at_once)])
    wrote = [one for one in alone if one.answer_tokens > 1 and one.rest > 0]
    if not wrote:
        raise LocalModelError(f"{model.model} answered with no more than one token; see: testronaut-llm models verify")
    return Speed(
        model=model.model,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=meter.source,
        load=load,
        first=statistics.median(one.first for one in alone),
        prompt_tokens=round(statistics.median(one.prompt_tokens for one in alone)),
        prompt_rate=statistics.median(one.prompt_tokens / max(one.first, 1e-6) for one in alone),
        answer_rate=statistics.median((one.answer_tokens - 1) / one.rest for one in wrote),
        memory=meter.memory(),
        at_once=at_once,
        rate_at_once=together,
    )


def _together(meter: _Ollama | _Embedded, prompts: Sequence[str]) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(len(prompts)) as pool:
        tokens = sum(one.answer_tokens for one in pool.map(meter.ask, prompts))
    return tokens / (time.perf_counter() - began)


def _prompt(number: int) -> str:
    """None begins like another, or the server would know its beginning already."""
    words = WORDS.split()
    return " ".join(words[(number * 31 + n * (number + 1)) % len(words)] for n in range(PROMPT_WORDS))


class _Embedded:
    """Timed from here, piece by piece."""

    source = "measured"

    def __init__(self, llm: LLMManager) -> None:
        self._llm = llm
        self._most = 0

    def load(self) -> float:
        return seconds_to_load(self._llm)

    def ask(self, prompt: str) -> Round:
        began = time.perf_counter()
        first = last = 0.0
        with self._llm.stream("lenient", prompt, max_tokens=ANSWER_TOKENS) as stream:
            for _ in stream:
                last = time.perf_counter()
                first = first or last
            usage = stream.answer.usage
        self._most = max(self._most, _memory_of_children())
        return Round(usage.prompt_tokens, usage.completion_tokens, first=first - began, rest=last - first)

    def memory(self) -> int | None:
        return self._most or None


class _Ollama:
    """Timed by the server, which knows what was loading, reading and writing."""

    source = "ollama"

    def __init__(self, server: OllamaServer, llm: LLMManager) -> None:
        self._server, self._llm, self._model = server, llm, llm.config.model("it")
        most = llm.route(None, "?").candidates[0].context_window
        self._window = window(self._model, usual_window(llm.config, self._model), most=most)

    def load(self) -> float:
        self._server.unload(self._model.name)
        return seconds_to_load(self._llm)

    def ask(self, prompt: str) -> Round:
        own = {"num_predict": ANSWER_TOKENS, "temperature": 0}
        body = chat_body(self._model, own, num_ctx=self._window, extra={}, thinks=False)
        said = self._server.chat({**body, "model": self._model.name, "messages": [{"role": "user", "content": prompt}]})
        read, wrote, first, rest = (_number(said, name) for name in COUNTS)
        return Round(int(read), int(wrote), first=first / NANO, rest=rest / NANO)

    def memory(self) -> int | None:
        loaded = self._server.find_loaded(self._model.name)
        return loaded.size if loaded else None


def _number(said: Mapping[str, Any], name: str) -> float:
    value = said.get(name)
    return value if isinstance(value, int | float) else 0


def _memory_of_children() -> int:
    """Bytes of the processes that serve models for this one."""
    import psutil

    found = 0
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if embedded_child.__file__ in child.cmdline():
                found += child.memory_info().rss
    return found
