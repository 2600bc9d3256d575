"""What calls with the same arguments share, whatever their prompt: checked, selected, put into the words of the cache.

It is made once and kept, since a program asks thousands of prompts in one way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from testronaut_llm.caching.key import Frame, frame_of
from testronaut_llm.calls import builder
from testronaut_llm.config.faults import did_you_mean
from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.records import CacheMode
from testronaut_llm.task_router import Selected, one_vector_space, select

if TYPE_CHECKING:
    from testronaut_llm.config.source import ConfigSource
    from testronaut_llm.model_config import LLMConfig, TaskConfig
    from testronaut_llm.output_schema import OutputSchema

Given = Mapping[str, Any]
"""The arguments of a call method of `LLMManager`, by their names."""

_MOST = 64
_PLAIN = {type(None), bool, int, float, str, Decimal}
_SHARED = (
    *("system", "model", "max_tokens", "temperature", "stop", "seed", "cache", "sample"),
    *("max_cost", "timeout", "deadline", "extra"),
)
"""Arguments that many calls have in common; with `schema`, which is none of them as it comes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """All of a call but its prompt.

    Attributes:
        fields: of the Call.
        candidates: the models that may answer, in the listed order.
        frame: what its key in the cache is made of; None where the cache is off, or `extra` holds what is no JSON.
    """

    config: LLMConfig
    task: TaskConfig
    system: str | None
    fields: Mapping[str, Any]
    candidates: tuple[Selected, ...]
    frame: Frame | None

    @property
    def output(self) -> OutputSchema | None:
        """The shape that the answer has to have."""
        output: OutputSchema | None = self.fields["output"]
        return output

    @property
    def mode(self) -> CacheMode:
        """What the cache is used for."""
        mode: CacheMode = self.fields["cache"]
        return mode


def options_of(options: Any) -> dict[str, Any]:
    """Returns a copy of the arguments of a call, without its task and prompt, that come in a mapping.

    Raises:
        InvalidRequestError: it is no mapping, or no call takes such an argument; with the closest one that it takes.
    """
    if not isinstance(options, Mapping):
        raise InvalidRequestError(f"options is {options!r:.60}; expected a mapping of arguments of `complete`")
    known = (*_SHARED, "schema", "accept", "metadata")
    for name in options:
        if name not in known:
            raise InvalidRequestError(f"options holds {name!r:.60}, which no call takes{did_you_mean(name, known)}")
    return dict(options)


class Preparing:
    """Prepares the calls of one manager. Safe for threads."""

    def __init__(self, source: ConfigSource) -> None:
        self._source = source
        self._kept: dict[tuple[Any, ...], Prepared] = {}

    def prepare(self, given: Given, *, embedding: bool, stream: bool) -> Prepared:
        """What calls with these arguments share, as the file and the environment are now.

        A private task's is made anew each time: the environment may say by now that its models are elsewhere.

        Raises:
            LLMError: the task or a model is unknown, or an argument is wrong.
        """
        config, name = self._source.current(), given["task"]
        if name is not None and not isinstance(name, str):
            raise InvalidRequestError(f"task is {name!r:.60}; expected a name from `tasks` of llm.yaml, or None")
        task, output = config.task(name), None
        if (schema := given.get("schema")) is not None:  # equal types may differ in what they make of an answer
            output = builder.output_of(schema)
        values = [given.get(name) for name in _SHARED]
        variable = os.environ.get(builder.CACHE_VARIABLE)
        types = [*map(type, values)]
        if not _PLAIN.issuperset(types):  # it has no hash, or may change and keep it
            return _made(config, task, given, output, embedding=embedding, stream=stream)
        key = (id(config), task.name, embedding, stream, output, variable, *values, *types)
        found = self._kept.get(key)
        if found is None or task.private:
            found = _made(config, task, given, output, embedding=embedding, stream=stream)
            if len(self._kept) >= _MOST:
                self._kept.clear()
            self._kept[key] = found  # which keeps its configuration, and so the identity, alive
        return found


def _made(
    config: LLMConfig, task: TaskConfig, given: Given, output: OutputSchema | None, *, embedding: bool, stream: bool
) -> Prepared:
    options = {name: given[name] for name in _SHARED if name in given}
    system = builder.system_of(task, options.pop("system", None))
    fields = builder.checked(task, schema=output, stream=stream, **options)
    selected = select(config, fields["model"], task)
    selected = one_vector_space(selected) if embedding else selected
    try:
        frame = None if fields["cache"] == "off" else frame_of(fields)
    except (TypeError, ValueError, RecursionError):
        frame = None
    return Prepared(
        config=config,
        task=task,
        system=system,
        fields=fields,
        candidates=tuple(one for one in selected if one.excluded is None),
        frame=frame,
    )
