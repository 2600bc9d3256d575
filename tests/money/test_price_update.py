"""`prices update`: taken over whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import ConfigError
from testronaut_llm.money import price_update
from testronaut_llm.money.price_update import update_prices
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.support.paths import data_file

OPENAI = {"litellm_provider": "openai"}
GOOD = {
    "sample_spec": {"litellm_provider": "any", "input_cost_per_token": "a number"},
    "fallback_generalizations": {"rules": []},
    "gpt-new": {**OPENAI, "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "mode": "chat"},
    "gpt-image": {**OPENAI, "input_cost_per_image": 0.04, "input_cost_per_token": None},
}


def written(tmp_path: Path, content: Any) -> str:
    source = tmp_path / "source.json"
    source.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(source)


def with_row(**fields: Any) -> dict[str, Any]:
    return {**GOOD, "bad": {**OPENAI, "mode": "chat", **fields}}


def test_a_file_becomes_the_users_table(tmp_path: Path) -> None:
    """After the update its prices rule, and the report says how many models it prices."""
    done = update_prices(written(tmp_path, GOOD))
    assert (done.models, done.priced, done.previous) == (2, 1, None)
    price = PriceTable.load().price(ModelConfig(alias="a", model="openai/gpt-new"))
    assert price.tiers[0][1].output == 2
    assert price.source.startswith("prices update of 20")


def test_the_previous_table_is_kept(tmp_path: Path) -> None:
    """A second update leaves the first one beside it."""
    target = tmp_path / "data" / "prices.json"
    update_prices(written(tmp_path, GOOD), path=target)
    before = target.read_text()
    done = update_prices(written(tmp_path, {**GOOD, "gpt-newer": GOOD["gpt-new"]}), path=target)
    assert done.previous == target.with_name("prices.previous.json")
    assert done.previous.read_text() == before
    assert done.models == 3
    assert sorted(p.name for p in target.parent.iterdir() if p.suffix == ".json") == [
        "prices.json",
        "prices.previous.json",
    ]


def test_the_map_that_litellm_ships_passes(tmp_path: Path) -> None:
    """The format is LiteLLM's own: its whole map is taken as it is."""
    source = data_file("litellm", "model_prices_and_context_window_backup.json")
    done = update_prices(str(source), path=tmp_path / "prices.json")
    assert done.models > 4000
    assert done.priced > 2000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        (with_row(input_cost_per_token=float("nan")), "bad.input_cost_per_token is NaN"),
        ("[]", "prices no model"),
        ({}, "prices no model"),
        ({"gpt": {"litellm_provider": "openai", "input_cost_per_token": "$3"}}, "prices no model"),
        (with_row(input_cost_per_token=-1e-6), r"bad.input_cost_per_token is -0.000001 \(expected a plain number"),
        (with_row(output_cost_per_token="$0.01"), r"bad.output_cost_per_token is \$0.01"),
        (with_row(input_cost_per_token=True), "bad.input_cost_per_token is True"),
        (with_row(cache_read_input_token_cost=3), "expected USD for one token, at most 1"),
        (with_row(tiered_pricing=[7, {"range": [0, 1], "input_cost_per_token": -1}]), "bad.input_cost_per_token is -1"),
        (with_row(**{f"input_cost_per_token_{n}": -1 for n in range(7)}), "and 2 more"),
    ],
)
def test_a_bad_table_changes_nothing(tmp_path: Path, content: Any, says: str) -> None:
    """Impossible prices are named, and the table stays what it was."""
    target = tmp_path / "prices.json"
    update_prices(written(tmp_path, GOOD), path=target)
    before = target.read_text()
    with pytest.raises(ConfigError, match=says):
        update_prices(written(tmp_path, content), path=target)
    assert target.read_text() == before
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, too large, in the way: each a ConfigError with the path."""
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.json"):
        update_prices(str(tmp_path / "nowhere.json"))
    source = written(tmp_path, GOOD)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the price table"):
        update_prices(source, path=tmp_path / "file" / "prices.json")
    monkeypatch.setattr(price_update, "LARGEST", 10)
    with pytest.raises(ConfigError, match="is larger than 10 bytes"):
        update_prices(source)


def test_a_url_is_fetched_when_asked(tmp_path: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http is taken on loopback; a bad status, too much text or no text at all change nothing."""
    target = tmp_path / "prices.json"
    httpserver.expect_request("/good").respond_with_json(GOOD)
    httpserver.expect_request("/gone").respond_with_data("", status=404)
    httpserver.expect_request("/bytes").respond_with_data(b"\xff\xfe")
    assert update_prices(httpserver.url_for("/good"), path=target).models == 2
    before = target.read_text()
    for path, says in (("/gone", "404"), ("/bytes", "is not UTF-8")):
        with pytest.raises(ConfigError, match=says):
            update_prices(httpserver.url_for(path), path=target)
    monkeypatch.setattr(price_update, "LARGEST", 10)
    with pytest.raises(ConfigError, match="sent more than 10 bytes"):
        update_prices(httpserver.url_for("/good"), path=target)
    assert target.read_text() == before


@pytest.mark.parametrize("url", ["http://prices.example/map.json", "ftp://127.0.0.1/map.json", "file:///etc/passwd"])
def test_prices_come_over_https_or_not_at_all(url: str) -> None:
    """Nobody on the way may change them, and a URL is no way to read files."""
    with pytest.raises(ConfigError, match="expected a file or an https:// address"):
        update_prices(url)
