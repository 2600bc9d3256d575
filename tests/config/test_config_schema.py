"""Values that the classes of `llm.yaml` accept and refuse; the shipped JSON Schema does the same."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from config_schema import SECTIONS, descriptions, schema_text
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError
from source_tree import ROOT

from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig
from testronaut_llm.config.problems import FromEnvironment, keys_of
from testronaut_llm.config.sections import Usd, scalar, seconds, size_in_bytes
from testronaut_llm.config.source import PACKAGED, SCHEMA_FILE, FoundConfig, parse_config
from testronaut_llm.config.yaml_text import read_yaml
from testronaut_llm.errors import ConfigError

SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text("utf-8"))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
FOUND = FoundConfig(path=Path("llm.yaml"), how="argument")
KEY = "sk-abcdefghijklmnop1234567890"

ACCEPTED = (
    PACKAGED.read_text("utf-8"),
    "models: {a: {model: openai/x, quality: '${Q:-3}', local: '${L:-true}', reasoning: '${R:-low}'}}\ntasks: {}",
    "models: {a: {model: x/y, price: {input: 1, output: '2.5'}, keep_alive: -1, auto_pull: ask}}\ntasks: {}",
    "models: {a: {model: x/y, digest: 'sha256:abcdef0123', keep_alive: -1m, auto_pull: true}}\ntasks: {}",
    "tasks: {t: {models: x/y, stop: [a, b], timeout: 2m, temperature: 0.5, cache: off, seed: null}}",
    "tasks: {t: {models: [a/a, b/b], stop: END, deadline: 30, seed: -4, budget: {per_call: 0.5, total: 3}}}",
    "tasks: {}\nbudget: {per_day: '${B:-5}', on_exceeded: warn}\ncache: {ttl: 30d, size_limit: 1GiB}",
    "tasks: {}\nlimits: {openai: {rpm: 5}}\nlog: {file: x, content: true}",
)
REFUSED = (
    "tasks: {}\nbugdet: {}",
    "models: {a: {model: x/y, quality: 11}}\ntasks: {}",
    "models: {a: {model: x/y, reasoning: hihg}}\ntasks: {}",
    "tasks: {t: {}}",
    "tasks: {t: {models: x/y, max_tokens: many}}",
    "tasks: {}\nbudget: {per_day: -1}",
    "{}",
)


def test_the_shipped_schema_is_current_and_editors_find_it() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA_FILE.read_text("utf-8") == schema_text()
    first = (ROOT / "llm.yaml").read_text("utf-8").splitlines()[0]
    assert (ROOT / first.removeprefix("# yaml-language-server: $schema=")).resolve() == SCHEMA_FILE


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_has_a_sentence(section: type[BaseModel]) -> None:
    told, keys = descriptions(section), keys_of(section)
    assert all(told[key].endswith((".", "?", ")")) and told[key][0] in told[key][0].upper() + "`" for key in keys)
    properties = SCHEMA["$defs"].get(section.__name__, SCHEMA)["properties"]
    assert {key: value["description"] for key, value in properties.items()} == {key: told[key] for key in keys}


def test_the_schema_agrees_with_the_classes() -> None:
    for text in ACCEPTED:
        parse_config(text, FOUND)
        VALIDATOR.validate(read_yaml(text).data)
    for text in REFUSED:
        assert not VALIDATOR.is_valid(read_yaml(text).data), text
        with pytest.raises(ConfigError):
            parse_config(text, FOUND)


SCALARS: dict[str, object] = {
    "off": "off", "no": "no", "2024-10-21": "2024-10-21", "1:30": "1:30", "1_000": "1_000", "nan": "nan",
    "010": 10, "0x1F": "0x1F", ".nan": ".nan", "-7": -7, "+7": 7, "1.": 1.0, ".5": 0.5, "1e3": 1000.0, "true": True,
    "False": False, "null": None, "~": None, "": None, "9" * 5000: "9" * 5000,
}  # fmt: skip
TIMES: dict[object, float] = {
    90: 90.0, 0.5: 0.5, "30d": 2_592_000.0, "12h": 43_200.0, "1.5s": 1.5, "250ms": 0.25, "2w": 1_209_600.0, "45": 45.0,
    "6m0s": 360.0, FromEnvironment("7"): 7.0, FromEnvironment("7m"): 420.0,
}  # fmt: skip
SIZES: dict[object, int] = {5: 5, "1GiB": 1024**3, "1 gib": 1024**3, "500MB": 500_000_000, "1.5KiB": 1536, "3B": 3}
AMOUNTS: dict[object, str] = {0.1: "0.1", Decimal("0.30"): "0.30", FromEnvironment("2"): "2", "1e-6": "0.000001"}

NO_TIMES: list[object] = ["30y", "soon", "", "d", "-5s", True, None, math.nan, math.inf, "1e3s", "1h 30m", "1.5.2s"]
NO_SIZES: list[object] = ["1G", "1i", "1iB", "big", "1GiBB", "-1MB", False]
NO_AMOUNTS: list[object] = [-1, "-0.5", math.nan, "NaN", Decimal("NaN"), Decimal("inf"), True, None, "much"]


def test_unquoted_text_means_what_yaml_1_2_says() -> None:
    """`off` is a word and a date is text, unlike in YAML 1.1; `.nan` is refused."""
    assert {text: scalar(text) for text in SCALARS} == SCALARS
    assert [type(scalar(text)) for text in SCALARS] == [type(value) for value in SCALARS.values()]


def test_times_sizes_and_money_are_numbers_or_have_a_unit() -> None:
    assert {text: seconds(text) for text in TIMES} == TIMES
    assert {text: size_in_bytes(text) for text in SIZES} == SIZES
    for amount, expected in AMOUNTS.items():
        assert TypeAdapter(Usd).validate_python(amount) == Decimal(expected)


def test_what_is_no_time_size_or_amount_is_refused() -> None:
    for bad in NO_TIMES:
        with pytest.raises(ValueError, match="such as 30d"):
            seconds(bad)
    for bad in NO_SIZES:
        with pytest.raises(ValueError, match="such as 1GiB"):
            size_in_bytes(bad)
    for bad in NO_AMOUNTS:
        with pytest.raises(ValidationError):
            TypeAdapter(Usd).validate_python(bad)
    for signed in ("$5", "5 USD", "5€"):
        with pytest.raises(ValidationError, match="the number of US dollars alone"):
            TypeAdapter(Usd).validate_python(signed)


_WORDS = st.sampled_from([*ModelConfig.model_fields, *TaskConfig.model_fields, "<<", "${X}", "${", "30d", "\x00", KEY])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=8,
)
_FILES = st.fixed_dictionaries({}, optional=dict.fromkeys(LLMConfig.model_fields, _VALUES)).map(yaml.safe_dump)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_FILES)
@example("tasks: {t: ['${A}']}")
@example("tasks: ['${A}']")
@example("tasks: '${A}'")
@example("tasks: {}\nmodels: {m: ['${A}']}")
def test_any_file_gives_a_configuration_or_a_config_error(text: str) -> None:
    for found in (FOUND, FoundConfig(path=Path("llm.yaml"), how="upwards")):
        try:
            parse_config(text, found)
        except ConfigError as error:
            assert KEY not in str(error)  # noqa: PT017
