"""The shipped JSON Schema accepts and refuses what the classes of `llm.yaml` do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from config_schema import SECTIONS, descriptions, schema_text
from pydantic import BaseModel
from source_tree import ROOT

from testronaut_llm.config.problems import keys_of
from testronaut_llm.config.source import PACKAGED, SCHEMA_FILE, FoundConfig, parse_config
from testronaut_llm.config.yaml_text import read_yaml
from testronaut_llm.errors import ConfigError

SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text("utf-8"))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)

ACCEPTED = (
    PACKAGED.read_text("utf-8"),
    "models: {a: {model: openai/x, quality: '${Q:-3}', local: '${L:-true}', reasoning: '${R:-low}'}}\ntasks: {}",
    "models: {a: {model: x/y, price: {input: 1, output: '2.5'}, keep_alive: -1, auto_pull: ask}}\ntasks: {}",
    "tasks: {t: {models: x/y, stop: [a, b], timeout: 2m, temperature: 0.5, cache: off, seed: null}}",
    "tasks: {}\nbudget: {per_day: '${B:-5}', on_exceeded: warn}\ncache: {ttl: 30d, size_limit: 1GiB}",
    "tasks: {}\nlimits: {openai: {rpm: 5}}\nlog: {file: x, content: true}",
)
REFUSED = (
    "tasks: {}\nbugdet: {}",
    "models: {a: {model: x/y, alias: b}}\ntasks: {}",
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
    found = FoundConfig(path=Path("f"), how="argument")
    for text in ACCEPTED:
        parse_config(text, found)
        VALIDATOR.validate(read_yaml(text).data)
    for text in REFUSED:
        assert not VALIDATOR.is_valid(read_yaml(text).data), text
        with pytest.raises(ConfigError):
            parse_config(text, found)
