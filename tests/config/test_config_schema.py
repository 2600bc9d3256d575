"""The shipped JSON Schema accepts and refuses what the models of `llm.yaml` do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from config_schema import SECTIONS, descriptions, schema_text
from pydantic import BaseModel

from testronaut_llm.config.problems import keys_of
from testronaut_llm.config.source import PACKAGED, SCHEMA_FILE, FoundConfig, parse_config
from testronaut_llm.config.yaml_text import read_yaml
from testronaut_llm.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft7Validator:
    """The shipped schema."""
    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def test_the_shipped_schema_is_fresh() -> None:
    """The schema is up to date; `python scripts/config_schema.py` writes it."""
    assert SCHEMA_FILE.read_text("utf-8") == schema_text()


def test_the_first_line_of_the_packaged_file_names_the_schema() -> None:
    """Editors find the schema from the root of the project."""
    first = (ROOT / "llm.yaml").read_text("utf-8").splitlines()[0]
    prefix = "# yaml-language-server: $schema="
    assert first.startswith(prefix)
    assert (ROOT / first.removeprefix(prefix)).resolve() == SCHEMA_FILE


def test_the_packaged_file_obeys_it(validator: jsonschema.Draft7Validator) -> None:
    """The packaged file is valid by the schema."""
    validator.validate(read_yaml(PACKAGED.read_text("utf-8")).data)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_has_a_sentence(section: type[BaseModel]) -> None:
    """Each field has a description for the reference page and for editors."""
    told = descriptions(section)
    assert set(keys_of(section)) <= set(told)
    assert all(text.endswith((".", "?", ".)", ")")) and text[0] in text[0].upper() + "`" for text in told.values())
    properties = _properties(json.loads(schema_text()), section)
    assert {key: value["description"] for key, value in properties.items()} == {k: told[k] for k in keys_of(section)}


def _properties(schema: Mapping[str, Any], section: type[BaseModel]) -> dict[str, Any]:
    part = schema["$defs"].get(section.__name__, schema)
    return dict(part["properties"])


TAKEN = (
    "models: {a: {model: openai/x, quality: '${Q:-3}', local: '${L:-true}', reasoning: '${R:-low}'}}\ntasks: {}",
    "models: {a: {model: x/y, price: {input: 1, output: '2.5'}, keep_alive: -1, auto_pull: ask}}\ntasks: {}",
    "tasks: {t: {models: x/y, stop: [a, b], timeout: 2m, temperature: 0.5, cache: off, seed: null}}",
    "tasks: {}\nbudget: {per_day: '${B:-5}', on_exceeded: warn}\ncache: {ttl: 30d, size_limit: 1GiB}",
    "tasks: {}\nlimits: {openai: {rpm: 5}}\nlog: {file: x, content: true}",
)
REFUSED = (
    "tasks: {}\nbugdet: {}",
    "models: {a: {modl: x/y}}\ntasks: {}",
    "models: {a: {model: x/y, alias: b}}\ntasks: {}",
    "models: {a: {model: x/y, quality: 11}}\ntasks: {}",
    "models: {a: {model: x/y, reasoning: hihg}}\ntasks: {}",
    "tasks: {t: {}}",
    "tasks: {t: {models: x/y, name: t}}",
    "tasks: {t: {models: x/y, strategy: cheapst}}",
    "tasks: {t: {models: x/y, max_tokens: many}}",
    "tasks: {}\nbudget: {per_day: -1}",
    "{}",
)


def test_the_schema_takes_and_refuses_what_the_shapes_do(validator: jsonschema.Draft7Validator) -> None:
    """It accepts every valid file, and refuses typos and wrong types."""
    found = FoundConfig(path=Path("f"), how="argument")
    for text in TAKEN:
        parse_config(text, found)
        validator.validate(read_yaml(text).data)
    for text in REFUSED:
        assert not validator.is_valid(read_yaml(text).data), text
        with pytest.raises(ConfigError):
            parse_config(text, found)
