"""Is a local model what it should be, and does it do what the calls rely on? One finding a check.

It asks through the same door as any call, so that what passes here works there.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.errors import AllModelsFailedError, ConfigError, LLMError, OutputTruncatedError
from testronaut_llm.local import inspection
from testronaut_llm.local.inspection import Found, Outcome
from testronaut_llm.providers.provider_registry import provider_of

if TYPE_CHECKING:
    from testronaut_llm.llm_manager import LLMManager

SKIPPED: Outcome = "skipped"

WORDS = (
    "about after all answer back before both build case change check close command copy count date default delete "
    "each empty end error example exit fail file find first flag folder format give group hand help home input item "
    "keep key last level line list long main match mode name new next number only open option order output own page "
    "part path place point print process query read real remove result right run same save search see set show side "
    "sort start state step stop string table task test text time tool tree true type unit until use value verbose"
)
PROMPT = "Say hello in one short sentence."
SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "maxLength": 20}, "sure": {"type": "boolean"}},
    "required": ["word", "sure"],
    "additionalProperties": False,
}
LONG = 2000
"""Words of the prompt that has to be read whole, each at least a token; fewer where the window is small."""
WINDOW_PER_WORD = 4
"""Tokens of window for each word of it: a word may be two tokens, and the answer wants room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found, and why."""

    check: str
    outcome: Outcome
    why: str


def alone(config: LLMConfig, reference: str) -> LLMConfig:
    """A configuration that has this one model, as `config` describes it, and neither cache nor budget.

    Raises:
        ConfigError: there is no such model, or it is no local one.
    """
    model = config.model(reference)
    if provider_of(model).name not in ("embedded", "ollama"):
        raise ConfigError(
            f"{reference} is {model.model}; expected a model that runs here: embedded/<name>, ollama/<name>, "
            "or a name of llm.yaml that stands for one"
        )
    task = {"models": ["it"], "cache": "off", "retries": 0, "max_tokens": 256, "seed": 1}
    longest = max((one.max_tokens for one in config.tasks.values() if model.alias in one.models), default=256)
    made = LLMConfig(
        models={"it": {"model": model.model}},  # type: ignore[dict-item]
        tasks={
            "default": task,  # type: ignore[dict-item]
            "lenient": {**task, "allow_truncated": True},  # type: ignore[dict-item]
            "usual": {**task, "max_tokens": longest},  # type: ignore[dict-item] # never asked: it sets the window
        },
    )
    return made.model_copy(update={"models": {"it": model.model_copy(update={"alias": "it"})}})


def seconds_to_load(llm: LLMManager) -> float:
    """Loads the model `it`; LiteLLM is there before the clock starts."""
    llm.warm_up()
    began = time.perf_counter()
    llm.warm_up("it")
    return time.perf_counter() - began


def verify(llm: LLMManager) -> Iterator[Finding]:
    """Checks the model `it` of a manager that `alone` configured, one thing after the other."""
    model = llm.config.model("it")
    makes = ""
    for check, needs, run in _CHECKS:
        try:
            if needs and not makes:
                outcome, why = SKIPPED, "it does not load"
            elif needs and needs != makes:
                outcome, why = SKIPPED, f"it makes {makes}, no {needs}"
            else:
                outcome, why = run(llm, model)
        except LLMError as error:
            outcome, why = "fail", _reason(error)
        if run is _loads and outcome == "pass":
            makes = "vectors" if inspection.makes_vectors(model) else "text"
        yield Finding(check=check, outcome=outcome, why=why)


def _loads(llm: LLMManager, _: ModelConfig) -> Found:
    return "pass", f"in {seconds_to_load(llm):.1f} s"


def _answers(llm: LLMManager, _: ModelConfig) -> Found:
    answer = llm.complete("lenient", PROMPT)
    return "pass", f"{' '.join(answer.text.split())[:60]!r}"


def _stops(llm: LLMManager, _: ModelConfig) -> Found:
    try:
        answer = llm.complete(None, PROMPT)
    except OutputTruncatedError:
        return "fail", "it does not end by itself: its answers are cut at max_tokens; its chat template may be wrong"
    return "pass", f"by itself, after {answer.usage.completion_tokens} tokens"


def _obeys(llm: LLMManager, _: ModelConfig) -> Found:
    answer = llm.complete(None, "Name a colour, and say whether you are sure.", schema=SCHEMA)
    return "pass", " ".join(answer.text.split())[:60]


def _reads_all(llm: LLMManager, _: ModelConfig) -> Found:
    window = llm.route(None, PROMPT).candidates[0].context_window or LONG * WINDOW_PER_WORD
    count = max(50, min(LONG, window // WINDOW_PER_WORD))
    words = itertools.islice(itertools.cycle(WORDS.split()), count)
    usage = llm.complete("lenient", " ".join(words), max_tokens=1).usage
    if usage.estimated:
        return SKIPPED, "the server does not say how much it read"
    said = f"the server counts {usage.prompt_tokens:,} tokens of a prompt of {count:,} words"
    if usage.prompt_tokens < count:
        return "fail", f"{said}: it cuts prompts; raise `num_ctx` in llm.yaml"
    return "pass", said


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
    ("digest", "", lambda _, model: inspection.digest(model)),
    ("chat template", "", lambda _, model: inspection.template(model)),
    ("loads", "", _loads),
    ("answers", "text", _answers),
    ("stops", "text", _stops),
    ("obeys a schema", "text", _obeys),
    ("reads the whole prompt", "text", _reads_all),
    ("repeats itself", "text", _repeats),
    ("embeds", "vectors", _embeds),
)
"""Each with what a model has to make for it: text or vectors, empty for either."""


def _reason(error: LLMError) -> str:
    """What went wrong with the one model, without the route around it."""
    last = error.last if isinstance(error, AllModelsFailedError) else None
    return f"{(last or error).code}: {last or error}"
