"""`${VAR}`, `${VAR:-default}` and the escape `$${`: what they become, and which are not set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from testronaut_llm.config.faults import Fault, Where
from testronaut_llm.config.values import FromEnvironment

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|\$\{")
_FOREIGN = re.compile(r"(?:\$|os\.environ/)([A-Za-z_][A-Za-z0-9_]*)")
"""A variable as a shell or LiteLLM's proxy writes it."""
_FREE_TEXT = ("system", "stop")


@dataclass(slots=True)
class Filling:
    """Fills the references of a document; a variable that is set to nothing counts as not set.

    Attributes:
        environment: None where nothing is to be filled in, defaults included.
        unset: where a variable without value and default stands, and its name. The reference stays as written there.
        faults: what is no well-formed reference.
    """

    environment: Mapping[str, str] | None
    unset: list[tuple[Where, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def fill(self, value: Any, where: Where = ()) -> Any:
        """Returns the value with each text in it filled; keys are left alone."""
        if isinstance(value, str):
            if (found := _FOREIGN.fullmatch(value)) and not (value[0] == "$" and set(_FREE_TEXT) & {*where}):
                name = found[1] if str(where[-1]) == "api_key_env" else f"${{{found[1]}}}"
                self.faults.append(Fault(where, f"{value} is not filled in: write  {name}"))
            return self._text(value, where) if "${" in value else value
        if isinstance(value, dict):
            return {key: self.fill(item, (*where, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item, (*where, index)) for index, item in enumerate(value)]
        return value

    def _text(self, text: str, where: Where) -> str:
        filled = malformed = False
        unset: dict[str, None] = {}

        def replacement(found: re.Match[str]) -> str:
            nonlocal filled, malformed
            name = found["name"]
            if found[0] == "$${":
                return "${"
            if name is None:
                malformed = True
                return found[0]
            value = None if self.environment is None else self.environment.get(name) or found["default"]
            if value is None:
                unset[name] = None
                return found[0]
            filled = True
            return value

        result = _REFERENCE.sub(replacement, text)
        self.unset += ((where, name) for name in unset)
        if malformed:
            words = "has a `${` that is no ${NAME} or ${NAME:-default}; write $${ for a literal one"
            self.faults.append(Fault(where, words))
        return FromEnvironment(result) if filled else result


def variables_in(text: str) -> tuple[str, ...]:
    """Returns the names of the variables that a text refers to, sorted, whether it is valid or not."""
    return tuple(sorted({found["name"] for found in _REFERENCE.finditer(text) if found["name"]}))
