"""Checks and measures a local model. The requests go the same way as those of calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from statistics import median
from typing import TYPE_CHECKING, Literal

from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.errors import AllModelsFailedError, ConfigError, LLMError, LocalModelError, OutputTruncatedError
from testronaut_llm.local.download import is_pinned, sha256_of
from testronaut_llm.local.local_models import makes_vectors
from testronaut_llm.local.local_provider import stored_header
from testronaut_llm.local.machine import pull_again
from testronaut_llm.local.model_store import ModelStore, Speed
from testronaut_llm.local.ollama_provider import OllamaServer
from testronaut_llm.providers.provider_registry import provider_of

if TYPE_CHECKING:
    from testronaut_llm.llm_manager import LLMManager
    from testronaut_llm.records import Usage

Outcome = Literal["pass", "fail", "skipped"]
Found = tuple[Outcome, str]

WORDS = (
    "about after all answer back before both build case change check close command copy count date default delete each "
    "empty end error example exit fail file find first flag folder form give group hand help home input item keep key"
)
PROMPT = "Say hello in one short sentence."
SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "maxLength": 20}, "sure": {"type": "boolean"}},
    "required": ["word", "sure"],
    "additionalProperties": False,
}
LONG, WINDOW_PER_WORD = 2000, 4
"""Words of the prompt that tests reading; fewer if the window is small, as a word may be two tokens."""
PROMPT_WORDS, ANSWER_TOKENS = 300, 96
"""Sizes of the prompts and answers that `bench` measures."""
NO_TEMPLATE = (
    "its template is {}: prompts lack the marks it was trained on, so its answers are nonsense; pull one with a "
    "template (testronaut-llm models pull ollama/hf.co/<owner>/<repository>:<quantisation>), or write a Modelfile"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check, and the reason."""

    check: str
    outcome: Outcome
    why: str


def alone(config: LLMConfig, reference: str) -> LLMConfig:
    """Returns a configuration with one local model, named `it`, and no cache. Raises ConfigError: not local."""
    model = config.model(reference)
    if provider_of(model).name not in ("embedded", "ollama"):
        raise ConfigError(f"{reference} is {model.model}; expected a model that runs here: embedded/... or ollama/...")
    task = {"models": ["it"], "cache": "off", "retries": 0, "max_tokens": 256, "seed": 1}
    longest = max((one.max_tokens for one in config.tasks.values() if model.alias in one.models), default=256)
    usual = {**task, "max_tokens": longest}  # never asked: it sets the window
    tasks = {"default": task, "lenient": {**task, "allow_truncated": True}, "usual": usual}
    made = LLMConfig.model_validate({"models": {"it": {"model": model.model}}, "tasks": tasks})
    return made.model_copy(update={"models": {"it": model.model_copy(update={"alias": "it"})}})


def verify(llm: LLMManager) -> Iterator[Finding]:
    """Yields a finding per check of the model `it` of a manager that `alone` configured."""
    model = llm.config.model("it")
    makes = ""
    for check, needs, run in _CHECKS:
        outcome: Outcome = "skipped"
        try:
            if needs and needs != makes:
                why = f"it makes {makes}, not {needs}" if makes else "it does not load"
            else:
                outcome, why = run(llm, model)
                if run is _loads:
                    makes = "vectors" if makes_vectors(model) else "text"
        except LLMError as error:
            last = error.last if isinstance(error, AllModelsFailedError) else None
            outcome, why = "fail", f"{(last or error).code}: {last or error}"
        yield Finding(check=check, outcome=outcome, why=why)


def ollama_template(server: OllamaServer, name: str) -> Found:
    """Checks the chat template of a model. Raises LocalModelError: it is missing, or no Ollama answers."""
    details = server.show(name)
    if details.capabilities and "completion" not in details.capabilities:
        return "skipped", "it makes vectors, no text"
    if (text := "".join(details.template.split())) in ("", "{{.Prompt}}"):
        return "fail", NO_TEMPLATE.format("{{ .Prompt }}" if text else "empty")
    return "pass", f"of {len(details.template):,} characters"


def _digest(_: LLMManager, model: ModelConfig) -> Found:
    if provider_of(model).name == "ollama":
        with OllamaServer.of(model) as server:
            digest = server.pulled(model.name).digest  # Ollama checked the file when it pulled it
    else:
        stored_header(model)
        store = ModelStore()
        stored, digest = store.get(model.name), sha256_of(store.path(model.name))
        if stored and digest != stored.sha256:
            was = f"the file has sha256 {digest[:12]}, and had {stored.sha256[:12]} when it was stored"
            return "fail", f"{was}; {pull_again(model.name)}"
    if not is_pinned(digest, model.digest):
        return "fail", f"it has {digest[:12]}, and llm.yaml pins {model.digest}; correct `digest:`, or pull it again"
    return "pass", digest[:12]


def _template(_: LLMManager, model: ModelConfig) -> Found:
    if provider_of(model).name == "ollama":
        with OllamaServer.of(model) as server:
            return ollama_template(server, model.name)
    header = stored_header(model)
    if header.pooling is not None:
        return "skipped", "it makes vectors, no text"
    if header.has_template:
        return "pass", "in the file"
    return "fail", "the file has none, and llama.cpp guesses one; look for a GGUF of the same model that has it"


def _loading_time(llm: LLMManager) -> float:
    llm.warm_up()  # LiteLLM is loaded before the clock starts
    began = time.perf_counter()
    llm.warm_up("it")
    return time.perf_counter() - began


def _loads(llm: LLMManager, _: ModelConfig) -> Found:
    return "pass", f"in {_loading_time(llm):.1f} s"


def _answers(llm: LLMManager, _: ModelConfig) -> Found:
    return "pass", f"{' '.join(llm.complete('lenient', PROMPT).text.split())[:60]!r}"


def _stops(llm: LLMManager, _: ModelConfig) -> Found:
    try:
        answer = llm.complete(None, PROMPT)
    except OutputTruncatedError:
        return "fail", "its answers do not end by themselves: max_tokens cuts them; its chat template may be wrong"
    return "pass", f"by itself, after {answer.usage.completion_tokens} tokens"


def _obeys(llm: LLMManager, _: ModelConfig) -> Found:
    answer = llm.complete(None, "Name a colour, and say whether you are sure.", schema=SCHEMA)
    return "pass", " ".join(answer.text.split())[:60]


def _reads_all(llm: LLMManager, _: ModelConfig) -> Found:
    window = llm.route(None, PROMPT).candidates[0].context_window or LONG * WINDOW_PER_WORD
    count = max(50, min(LONG, window // WINDOW_PER_WORD))
    usage = _asked(llm, " ".join(islice(cycle(WORDS.split()), count)), 1)[0]
    if usage.estimated:
        return "skipped", "the server does not report how many tokens it read"
    counted = f"the server counts {usage.prompt_tokens:,} tokens of a prompt of {count:,} words"
    if usage.prompt_tokens < count:
        return "fail", f"{counted}: it cuts prompts; raise `num_ctx` in llm.yaml"
    return "pass", counted


def _repeats(llm: LLMManager, _: ModelConfig) -> Found:
    first, second = (llm.complete("lenient", PROMPT, max_tokens=64).text for _ in range(2))
    if first == second:
        return "pass", "the same text twice, at temperature 0"
    return "fail", f"at temperature 0 it said {first[:30]!r}, then {second[:30]!r}"


def _embeds(llm: LLMManager, _: ModelConfig) -> Found:
    first, other, again = llm.embed("lenient", [PROMPT, WORDS[:80], PROMPT]).vectors
    if first != again or first == other:
        return "fail", "the same text did not give the same vector, or another text did"
    return "pass", f"vectors of {len(first):,} numbers, the same for the same text"


_CHECKS: tuple[tuple[str, str, Callable[[LLMManager, ModelConfig], Found]], ...] = (
    ("digest", "", _digest),
    ("chat template", "", _template),
    ("loads", "", _loads),
    ("answers", "text", _answers),
    ("stops", "text", _stops),
    ("obeys a schema", "text", _obeys),
    ("reads the whole prompt", "text", _reads_all),
    ("repeats itself", "text", _repeats),
    ("embeds", "vectors", _embeds),
)
"""Name, what the model must make (text or vectors, empty for either), and the function of each check."""


def bench(llm: LLMManager, *, rounds: int = 3, report: Callable[[str], None] = print) -> Speed:
    """Measures the model `it` of a manager that `alone` configured: the medians of `rounds`. Raises LLMError.

    Each round is two calls, to separate reading from writing: one for a single token, and one for a longer answer.
    """
    model = llm.config.model("it")
    if makes_vectors(model):
        raise LocalModelError(f"{model.model} is an embedding model: it has no tokens a second to measure")
    if provider_of(model).name == "ollama":
        with OllamaServer.of(model) as server:
            server.load(model.name, keep_alive=0)  # out of memory, so that the load can be measured
    report(f"{model.model}: loading")
    load = _loading_time(llm)
    _asked(llm, _prompt(2 * rounds), 1)  # not measured: it opens connections
    first, prompts, read, written = [], [], [], []
    for number in range(rounds):
        report(f"{model.model}: round {number + 1} of {rounds}")
        short, began = _asked(llm, _prompt(2 * number), 1)
        long, took = _asked(llm, _prompt(2 * number + 1), ANSWER_TOKENS)
        first.append(began)
        prompts.append(short.prompt_tokens)
        read.append(short.prompt_tokens / began)
        if long.completion_tokens > 1:  # of a fast model the first token may take as long as all
            written.append((long.completion_tokens - 1) / (took - began if took > began else took))
    if not written:
        raise LocalModelError(f"{model.model} gave no answer long enough to time; see: testronaut-llm models verify")
    return Speed(
        model=model.model,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        load=load,
        first=median(first),
        prompt_tokens=round(median(prompts)),
        prompt_rate=median(read),
        answer_rate=median(written),
    )


def _prompt(number: int) -> str:
    """Returns a prompt that begins as no other: the server would answer from its prompt cache."""
    words = WORDS.split()
    return " ".join(words[(number * 31 + n * (number + 1)) % len(words)] for n in range(PROMPT_WORDS))


def _asked(llm: LLMManager, prompt: str, most: int) -> tuple[Usage, float]:
    """Asks for up to `most` tokens; returns usage and seconds, also of an answer that is empty or cut."""
    try:
        attempts = llm.complete("lenient", prompt, max_tokens=most).attempts
    except LLMError as error:
        attempts = error.attempts
        if not any(one.usage for one in attempts):
            raise
    return next((one.usage, max(one.latency, 1e-6)) for one in attempts if one.usage)
