"""How fast the local models of this machine are: measured by `models bench`, read when a route is made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.local.download import held
from testronaut_llm.providers.provider_registry import api_base_of, provider_of
from testronaut_llm.support import paths
from testronaut_llm.support.paths import write_atomically

KEPT = 20
"""Measurements kept of each model, the newest last."""

Rate = Annotated[float, Field(gt=0)]  # a file that says 0 is not believed: a route would divide by it


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One measurement; medians of its rounds. What nobody knows is None."""

    model: str  # `provider/name`
    at: str  # ISO 8601 in UTC
    source: str  # whose clock: `measured` here, or `ollama`, which times itself without the way there
    load: float | None  # seconds until a model that was not in memory could answer
    first: float  # seconds to the first token of the answer to a prompt of `prompt_tokens`
    prompt_tokens: int
    prompt_rate: Rate  # tokens read a second
    answer_rate: Rate  # tokens written a second, one request at a time
    memory: int | None = None  # bytes, at most
    at_once: int = 1  # requests at the same time in the last round, 1 where there was none
    rate_at_once: float | None = None  # tokens written a second by all of them together

    def seconds(self, prompt: int, answer: int) -> float:
        """How long an answer of so many tokens to a prompt of so many takes, once the model is in memory."""
        return prompt / self.prompt_rate + answer / self.answer_rate


_ROWS = TypeAdapter(dict[str, list[Speed]])  # leaves out fields that only another version knows


class SpeedHistory:
    """What was measured, by model and server. A file that cannot be read is an empty one."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or paths.data_dir() / "speeds.json"
        self._seen: tuple[int, int] | None = None
        self._speeds: dict[str, list[Speed]] = {}

    def of(self, model: ModelConfig) -> tuple[Speed, ...]:
        """All that is kept of a model, the newest last."""
        return tuple(self._read().get(_key(model), ()))

    def latest(self, model: ModelConfig) -> Speed | None:
        """The newest, or None where it was never measured."""
        return next(reversed(self.of(model)), None)

    def add(self, model: ModelConfig, speed: Speed) -> None:
        """Keeps a measurement. Raises OSError: the file cannot be written."""
        with held(self.path.with_suffix(".lock")):
            kept = dict(self._read())
            kept[_key(model)] = [*kept.get(_key(model), ()), speed][-KEPT:]
            rows = {key: [asdict(one) for one in speeds] for key, speeds in kept.items()}
            write_atomically(self.path, json.dumps({"version": 1, "models": rows}, indent=1) + "\n")

    def _read(self) -> dict[str, list[Speed]]:
        try:
            status = self.path.stat()
            if self._seen != (status.st_mtime_ns, status.st_ino):
                self._seen = status.st_mtime_ns, status.st_ino
                rows = json.loads(self.path.read_text("utf-8"))["models"]
                self._speeds = _ROWS.validate_python(rows)
        except (OSError, ValueError, LookupError, TypeError):
            return {}
        return self._speeds


def _key(model: ModelConfig) -> str:
    """The same name on two servers is two models."""
    provider = provider_of(model)
    base = None if provider.name == "embedded" else api_base_of(model, provider)
    return f"{model.model}@{base}" if base else model.model
