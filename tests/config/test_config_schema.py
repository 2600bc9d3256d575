"""What the classes of `llm.yaml` accept and refuse; the shipped JSON Schema does the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from config_schema import SECTIONS, descriptions, schema_text
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from source_tree import ROOT

from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig
from testronaut_llm.config.problems import keys_of
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
