"""Secrets in prompts: found, replaced by placeholders such as `<secret-1>`, and put back into answers."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, product

from testronaut_llm.errors import SecretInPromptError
from testronaut_llm.telemetry.redaction import SECRET_ENDS, Form, escaped, find_keys, forms_of

_PLACEHOLDER = re.compile(r"<secret-[0-9]{1,6}>")
_IN_JSON = re.compile(r"(?i:<|\\u003c)(secret-[0-9]{1,6})(?i:>|\\u003e)")
_EXAMPLE = re.compile(r"(?i)(?:your|my)?[-_]?(?:pass(?:word|wd)?|pwd?|secret|token|key)|[x*.]+|[<\[{$%].*|redacted")
"""Stand-ins for secrets in the examples of documentation."""
_SHORT = 8


@dataclass(frozen=True, slots=True)
class Masking:
    """The secrets of one call. Without any it changes nothing.

    Attributes:
        originals: the secrets by their placeholders.
        count: how many places of the prompt hold a placeholder.
    """

    originals: Mapping[str, str] = field(default_factory=dict, repr=False)
    count: int = 0

    def mask(self, text: str) -> str:
        """Returns a text with placeholders for the secrets of this call, also as JSON writes them."""
        if not self.originals:
            return text
        placeholders = {form: name for name, secret in self.originals.items() for form in escaped(secret)}
        return _pattern(placeholders).sub(lambda found: placeholders[found[0]], text)

    def restore(self, text: str, *, as_json: bool = False) -> str:
        """Returns a text with the secrets in place of their placeholders; in JSON they are escaped."""
        if not self.originals:
            return text

        def escaped_original(found: re.Match[str]) -> str:
            secret = self.originals.get(f"<{found[1]}>")
            return found[0] if secret is None else json.dumps(secret, ensure_ascii=False)[1:-1]

        if as_json:
            return _IN_JSON.sub(escaped_original, text)
        return _PLACEHOLDER.sub(lambda found: self.originals.get(found[0], found[0]), text)


NOTHING = Masking()


class Pieces:
    """Restores a stream piece by piece. It holds back only what may be the beginning of a placeholder."""

    def __init__(self, masking: Masking, *, as_json: bool) -> None:
        self._masking, self._as_json, self._held = masking, as_json, ""
        marks = product(("<", r"\u003c", r"\u003C"), (">", r"\u003e", r"\u003E")) if as_json else [("<", ">")]
        self._forms = [f"{first}{name[1:-1]}{last}" for first, last in marks for name in masking.originals]

    def add(self, piece: str) -> str:
        """Returns what can be handed over now."""
        text = self._held + piece
        ends = [text[start:] for start in range(max(0, len(text) - 30), len(text))] if self._forms else ()
        begun = (end for end in ends if any(form.startswith(end) and form != end for form in self._forms))
        self._held = next(begun, "")
        return self._masking.restore(text[: len(text) - len(self._held)], as_json=self._as_json)

    def end(self) -> str:
        """Returns what was held back, at the end of the stream."""
        held, self._held = self._held, ""
        return held


def secrets_in(text: str, own: Sequence[tuple[Form, str]] = ()) -> list[tuple[int, int, str]]:
    """Returns start, end and kind of each secret of a text: known shapes, and values of `own` variables."""
    found = []
    for kind, match in find_keys(text):
        start = match.end(match.lastindex) if match.lastindex else match.start()
        secret = text[start : match.end()].rstrip(".,:;!?")  # of the sentence
        if secret and not _EXAMPLE.fullmatch(secret):
            found.append((start, start + len(secret), kind))
    lowered = text.lower()
    for (form, pattern), name in own:
        if form in lowered:
            found += [(*one.span(), f"value of {name}") for one in pattern.finditer(text)]
    whole: list[tuple[int, int, str]] = []
    for one in sorted(found):
        if whole and one[0] < whole[-1][1]:  # they overlap
            first, last, kind = whole.pop()
            whole.append((first, max(last, one[1]), kind))
        else:
            whole.append(one)
    return whole


def _own_forms() -> list[tuple[Form, str]]:
    """Returns the forms of the values of this process's secret variables, as they are now, with their names."""
    names = _secret_names(tuple(os.environ))
    return _forms_of_values(tuple([(name, os.environ.get(name, "")) for name in names]))


@lru_cache(maxsize=4)
def _secret_names(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name.upper().rstrip("_0123456789").endswith(SECRET_ENDS)]


@lru_cache(maxsize=4)
def _forms_of_values(variables: tuple[tuple[str, str], ...]) -> list[tuple[Form, str]]:
    long = [(name, value.strip()) for name, value in variables if len(value.strip()) >= _SHORT]
    return [(form, name) for name, value in long for form in forms_of(value)]


def masked(texts: Sequence[str]) -> tuple[tuple[str, ...], Masking]:
    """Returns the texts with one placeholder for each secret, numbered in the order of their first places."""
    own = _own_forms()
    secrets = {text[start:end] for text in texts for start, end, _ in secrets_in(text, own)}
    if not secrets:
        return tuple(texts), NOTHING
    written = {name for text in texts for name in _PLACEHOLDER.findall(text)}  # by the caller
    free = (name for number in count(1) if (name := f"<secret-{number}>") not in written)
    names: defaultdict[str, str] = defaultdict(lambda: next(free))
    pattern = _pattern(secrets)
    done = [pattern.subn(lambda found: names[found[0]], text) for text in texts]
    masking = Masking({name: secret for secret, name in names.items()}, sum(places for _, places in done))
    return tuple([text for text, _ in done]), masking


def refuse_secrets(task: str, places: Iterable[tuple[str, str]]) -> None:
    """Raises SecretInPromptError if one of the texts, each with the words for its place, holds a secret."""
    own = _own_forms()
    for where, text in places:
        for start, _, kind in secrets_in(text, own)[:1]:
            lines = text[:start].split("\n")
            place = f"{where}, line {len(lines)}, character {len(lines[-1]) + 1}"
            raise SecretInPromptError(
                f"{task}: the prompt holds a secret ({kind}): {place}; remove it, or set `secrets: mask` for the task"
            )


def _pattern(secrets: Iterable[str]) -> re.Pattern[str]:
    """Finds the secrets anywhere, the longest first; short ones, which may be words, only as a value."""
    ordered = sorted(secrets, key=lambda one: (-len(one), one))
    return re.compile(
        "|".join(re.escape(one) if len(one) >= _SHORT else rf"(?<=[:=]){re.escape(one)}(?![\w-])" for one in ordered)
    )
