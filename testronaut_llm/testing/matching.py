"""When is a request the recorded one? Method, host, path, query and the JSON body, key order aside (P13)."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vcr.matchers import method

from testronaut_llm.testing.cassette_format import body_to_field, to_yaml

Matcher = Callable[[Any, Any], None]
_MAX_DIFF_LINES = 60


def matchers(ignored: Sequence[str] = ()) -> list[Matcher]:
    """The matchers of one cassette.

    `ignored` names body fields to leave out: `options.num_ctx`, or in each item of a list `messages.*.images`.
    """

    def address(request: Any, recorded: Any) -> None:
        if _address(request) != _address(recorded):
            raise AssertionError(f"{_address(request)} is not {_address(recorded)}")

    def body(request: Any, recorded: Any) -> None:
        if comparable(request, ignored) != comparable(recorded, ignored):
            raise AssertionError(difference(request, recorded, ignored))

    return [method, address, body]


def comparable(request: Any, ignored: Iterable[str] = ()) -> dict[str, Any]:
    """The body as data: equal for equal JSON, whatever the order of its keys."""
    field = body_to_field(request.body)
    if "json" in field:
        field = copy.deepcopy(field)
        for path in ignored:
            _drop(field["json"], path.split("."))
    return field


def difference(request: Any, recorded: Any, ignored: Iterable[str] = ()) -> str:
    """A unified diff from the recorded body to this request's, as readable text."""
    old, new = (to_yaml(comparable(one, ignored), sort_keys=True).splitlines() for one in (recorded, request))
    lines = list(difflib.unified_diff(old, new, "recorded", "this request", lineterm="", n=2))
    if len(lines) > _MAX_DIFF_LINES:
        lines[_MAX_DIFF_LINES:] = [f"... {len(lines) - _MAX_DIFF_LINES} more lines"]
    return "\n".join(lines)


def nearest(request: Any, recorded: Sequence[Any], ignored: Iterable[str] = ()) -> int | None:
    """Index of the recorded request that is most like this one; one for the same address wins."""
    wanted = to_yaml(comparable(request, ignored))

    def likeness(index: int) -> tuple[bool, float]:
        other = recorded[index]
        ratio = difflib.SequenceMatcher(None, wanted, to_yaml(comparable(other, ignored)), autojunk=False)
        return _address(other) == _address(request), ratio.quick_ratio()

    return max(range(len(recorded)), key=likeness, default=None)


def _drop(value: Any, path: Sequence[str]) -> None:
    key, rest = path[0], path[1:]
    if isinstance(value, list) and key == "*":
        for item in value:
            _drop(item, rest)
    elif isinstance(value, dict) and rest:
        _drop(value.get(key), rest)
    elif isinstance(value, dict):
        value.pop(key, None)


def _address(request: Any) -> tuple[str, str | None, str, list[tuple[str, str]]]:
    return request.scheme, request.host, request.path or "/", request.query
