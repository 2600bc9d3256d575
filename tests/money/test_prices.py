"""The cost of a call with its source, and `prices update`, which takes a complete table or nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manager_kit import a_model as model
from pytest_httpserver import HTTPServer

from testronaut_llm.errors import ConfigError
from testronaut_llm.money import price_rows
from testronaut_llm.money import prices as price_module
from testronaut_llm.money.price_rows import Price, Rates, read_price, update_prices
from testronaut_llm.money.prices import PriceTable, Table
from testronaut_llm.records import Usage
from testronaut_llm.support.paths import data_file

HERE = {"api_base": "http://127.0.0.1:1234/v1"}
COUNTS, PRICES = st.integers(0, 400_000), st.integers(0, 100).map(Decimal)
RATE_TABLES = st.builds(Rates, **dict.fromkeys(("input", "output", "cache_read", "cache_write", "reasoning"), PRICES))


def row(cost_in: str = "1e-6", cost_out: str = "2e-6", provider: str = "openai", **more: Any) -> dict[str, Any]:
    costs = {"input_cost_per_token": Decimal(cost_in), "output_cost_per_token": Decimal(cost_out)}
    return {"litellm_provider": provider, "mode": "chat", **costs, **more}


def table_of(*tables: Mapping[str, Any]) -> PriceTable:
    """Returns a price table made of these, the most trusted first."""
    made = [Table(name=f"table {n}", rows=rows) for n, rows in enumerate(tables)]
    return PriceTable([lambda one=one: one for one in made])  # type: ignore[misc]


@pytest.fixture(scope="module")
def real() -> PriceTable:
    return PriceTable.load(Path("/nonexistent/prices.json"))


def test_a_known_model_is_priced_from_litellms_map_with_its_source_named(real: PriceTable) -> None:
    """`price:` of `llm.yaml` comes before LiteLLM's map, and that before tokencost's older table."""
    usage = Usage(prompt_tokens=1000, completion_tokens=500, cached_tokens=400, cache_write_tokens=100)
    cost = real.cost(model("openai/gpt-4o-mini"), Usage(prompt_tokens=1000, completion_tokens=500))
    assert cost.amount == Decimal("0.00045")
    assert re.fullmatch("litellm .*: gpt-4o-mini", cost.source)
    retired = real.price(model("anthropic/claude-3-opus-20240229"))
    assert (retired.source.split()[0], retired.tiers[0][1].input) == ("tokencost", 15)
    mine = real.cost(model("openai/gpt-4o", price={"input": 3, "output": 5, "cache_read": "0.5"}), usage)
    assert (mine.amount, mine.source) == (Decimal(600 * 3 + 400 * 0.5 + 500 * 5) / 10**6, "llm.yaml")


@pytest.mark.parametrize(
    ("reference", "fields", "price", "source"),
    [
        ("openai/gpt-99", {}, None, None), ("azure/my-deployment", {}, None, None),
        ("openai/zero", {}, None, None), ("openai/half", {}, None, None),  # tables write 0 for what they do not know
        ("ollama/qwen3", {}, 0, "local: free"), ("ollama/gpt-oss:120b-cloud", {}, None, None),
        ("ollama/gpt-oss:120b", {"api_base": "https://ollama.com"}, None, None),
        ("openai/my-gguf", HERE, None, None),
        ("openai/my-gguf", {**HERE, "local": True}, 0, "llm.yaml: declared local"),
        ("openai/gpt-x", {**HERE, "local": True}, 1, "table 0: gpt-x"),  # a known price is not hidden
        ("openai/mine", {"price": {"input": 0, "output": 0}}, 0, "llm.yaml"),
        ("openai/gpt-x-2024-05-13", {}, 5, "table 1: gpt-x-2024-05-13"),  # exact in an older table, before a stem
    ],
)  # fmt: skip
def test_unknown_is_not_free(reference: str, fields: dict[str, Any], price: int | None, source: str | None) -> None:
    newer = {"gpt-x": row(), "zero": row("0", "0"), "half": row("1e-6", "0"), "ollama/qwen3": row(provider="ollama")}
    prices = table_of(newer, {"gpt-x-2024-05-13": row("5e-6")})
    cost = prices.cost(model(reference, **fields), Usage(prompt_tokens=10**6))
    assert (cost.amount, cost.source) == (price, source)


ROWS = {
    "gpt-x": row(), "gpt-old": row("9e-6"), "gpt-old-2024-05-13": row("5e-6"), "ft:gpt-x": row("3e-6"),
    "azure/gpt-az": row(provider="azure"), "azure/eu/gpt-az": row(provider="azure"),
    "gemini/gem-1": row(provider="gemini"), "gem-2": row(provider="vertex_ai-language-models"),
    "claude-a-20250101": row(provider="anthropic"), "claude-sonnet-4-20250514": row(provider="anthropic"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "base_model", "key"),
    [
        ("gemini/gem-1", None, "gemini/gem-1"), ("vertex_ai/gem-2", None, "gem-2"),
        ("openai/gpt-x-2026-07-09", None, "gpt-x"), ("openai/gpt-old-2024-05-13", None, "gpt-old-2024-05-13"),
        ("anthropic/claude-a-latest", None, "claude-a-20250101"), ("anthropic/claude-a", None, "claude-a-20250101"),
        ("anthropic/claude-sonnet-4-0", None, "claude-sonnet-4-20250514"),
        ("openai/ft:gpt-x-2026-07-09:acme::1", None, "ft:gpt-x"), ("azure/dep", "gpt-x", "gpt-x"),
        ("azure/dep", "azure/gpt-az", "azure/gpt-az"), ("azure/dep", "gpt-az", "azure/gpt-az"),
        ("azure/dep", "eu/gpt-az", "azure/eu/gpt-az"),
        ("openai/alias-of-a-proxy", "anthropic/claude-a", "claude-a-20250101"),
    ],
)  # fmt: skip
def test_names_find_their_row(reference: str, base_model: str | None, key: str) -> None:
    assert table_of(ROWS).price(model(reference, base_model=base_model)).source == f"table 0: {key}"


def test_a_near_miss_is_a_miss() -> None:
    torn = {"gpt-torn-2025-01-01": row("1e-6"), "gpt-torn-2025-06-01": row("2e-6")}
    prices = table_of({"gpt-x": row(), "gpt-untuned": row(), "claude-a": row(provider="anthropic"), **torn})
    names = ("gpt", "gpt-x-mini", "GPT-X-turbo", "my-gpt-x", "ft:gpt-untuned:acme", "claude-a", "gpt-torn-latest")
    missed = (*(f"openai/{name}" for name in names), "anthropic/gpt-x", "azure/gpt-x", "openrouter/gpt-x")
    assert [name for name in missed if prices.price(model(name))] == []


@pytest.mark.parametrize(
    ("reference", "answered", "cost"),
    [
        ("openai/gpt-x", "gpt-x-2024-05-13", 5), ("openai/gpt-x", "gpt-y", 1), ("openai/gpt-x", "gpt-x-2030-01-01", 1),
        ("ollama/gpt-x", "gpt-x-2024-05-13", 0), ("azure/dep", None, None), ("azure/dep", "gpt-az", 7),
        ("azure/gpt-az", "gpt-az", 7), ("azure/dep", "gpt-x-2025-01-01", 1), ("azure/dep", "who-knows", None),
    ],
)  # fmt: skip
def test_the_response_settles_what_is_paid(reference: str, answered: str | None, cost: int | None) -> None:
    """The answer may name a dated snapshot, or the model of an Azure deployment without `base_model`."""
    azure = {"azure/gpt-az": row("7e-6", provider="azure")}
    prices = table_of({"gpt-x": row("1e-6"), "gpt-x-2024-05-13": row("5e-6"), "gpt-y": row("9e-6"), **azure})
    assert prices.cost(model(reference), Usage(prompt_tokens=1_000_000), answered).amount == cost


def test_cached_written_and_reasoning_tokens_have_their_own_rates() -> None:
    """Each kind of token is paid once, also if the counts contradict each other."""
    reads, writes = {"cache_read_input_token_cost": "1e-7"}, {"cache_creation_input_token_cost": "1.25e-6"}
    rates = {**reads, **writes, "output_cost_per_reasoning_token": "4e-6"}
    cost = table_of({"m": row(**{name: Decimal(rate) for name, rate in rates.items()})}).cost
    kinds = {"cached_tokens": 8000, "cache_write_tokens": 2000, "reasoning_tokens": 60}
    usage = Usage(prompt_tokens=10_010, completion_tokens=100, **kinds)
    assert cost(model("openai/m"), usage).amount == (10 * 1 + 800 + 2500 + 40 * 2 + 60 * 4) / Decimal(10**6)
    contradiction = Usage(prompt_tokens=10, cached_tokens=20, completion_tokens=5, reasoning_tokens=9)
    assert cost(model("openai/m"), contradiction).amount == (20 * Decimal("0.1") + 5 * 4) / 10**6
    answers_are_free = {"litellm_provider": "openai", "mode": "embedding", "input_cost_per_token": Decimal("1e-7")}
    assert table_of({"e": answers_are_free}).cost(model("openai/e"), Usage(prompt_tokens=10)).amount == Decimal("1e-6")


def test_a_long_prompt_moves_the_whole_call_into_the_more_expensive_tier() -> None:
    above = {"input_cost_per_token_above_200k_tokens": "2e-6", "output_cost_per_token_above_200k_tokens": "3e-6"}
    batches = {"input_cost_per_token_above_200k_tokens_batches": "9e-6", "input_cost_per_token_batches": "5e-7"}
    tiers = {name: Decimal(price) for name, price in (above | batches).items()}
    price = table_of({"m": row(**tiers)}).price(model("openai/m"))
    assert [above for above, _ in price.tiers] == [0, 200_000]
    assert price.cost(Usage(prompt_tokens=200_000, completion_tokens=1000)) == Decimal("0.202")
    assert price.cost(Usage(prompt_tokens=200_001, completion_tokens=1000)) == Decimal("0.403002")
    bands: list[Any] = [{"range": [0, Decimal("256e3")], **row()}, {"range": [Decimal("256e3"), 10**6], **row("2e-6")}]
    broken: list[Any] = [7, {}, {"range": []}, {"range": ["x", 1]}, {"range": [-1, 1]}]
    read = read_price({"mode": "chat", "tiered_pricing": [*bands, *broken]})
    assert [(above, rates.input) for above, rates in read] == [(0, 1), (256_000, 2)]
    assert read_price({"mode": "chat", "tiered_pricing": broken}) is None


@settings(max_examples=60)
@given(low=RATE_TABLES, high=RATE_TABLES, kinds=st.tuples(*[COUNTS] * 5), slack=COUNTS)
def test_no_call_costs_more_than_its_worst_case(low: Rates, high: Rates, kinds: tuple[int, ...], slack: int) -> None:
    """The reservation is enough for any split into cached, written and reasoning tokens, in any tier."""
    plain, cached, written, reasoning, text = kinds
    split = {"cached_tokens": cached, "cache_write_tokens": written, "reasoning_tokens": reasoning}
    usage = Usage(prompt_tokens=plain + cached + written, completion_tokens=reasoning + text, **split)
    price = Price(tiers=((0, low), (200_000, high)), source="made up")
    assert price.cost(usage) <= price.worst(usage.prompt_tokens + slack, usage.completion_tokens)


def test_facts_come_from_the_row_and_yield_to_the_file(real: PriceTable) -> None:
    facts = real.facts(model("openai/gpt-4o-mini"))
    assert (facts.known, facts.context_window, facts.max_output, facts.supports_schema) == (True, 128_000, 16_384, True)
    assert real.facts(model("azure/dep", base_model="gpt-4o-mini")).context_window == 128_000
    mine = real.facts(model("openai/gpt-4o-mini", context_window=1000, max_output=10))
    assert (mine.context_window, mine.max_output) == (1000, 10)
    small = "openai/text-embedding-3-small"
    assert [real.facts(one).dimensions for one in (model(small), model(small, dimensions=256))] == [1536, 256]
    prices = table_of({"ollama/llama3.1": row("0", "0", "ollama", max_input_tokens=8192)})  # the server is unknown
    assert prices.facts(model("ollama/llama3.1")).context_window is None
    assert prices.facts(model("ollama/llama3.1", num_ctx=16_384)).context_window == 16_384
    assert not prices.facts(model("openai/none-such")).known


def test_the_tables_tell_their_age(real: PriceTable, monkeypatch: pytest.MonkeyPatch) -> None:
    litellm, tokencost = real.tables()
    assert [table.name.split()[0] for table in (litellm, tokencost)] == ["litellm", "tokencost"]
    assert (litellm.newest or "") > (tokencost.newest or "") > "2025"
    assert Table(name="t", rows={"a-20259999": {}, "b-2024-02-30": {}, "c": {}}).newest == "2024-02-30"
    bundled = (price_module._BUNDLED[0], ("no_such_package", "x.json"), ("tokencost", "moved.json"))
    monkeypatch.setattr(price_module, "_BUNDLED", bundled)
    assert [table.name.split()[0] for table in PriceTable.load().tables()] == ["litellm"]


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


def test_a_file_becomes_the_users_table_and_the_previous_one_is_kept(tmp_path: Path) -> None:
    """Its prices come before all others; a damaged table is passed over."""
    done = update_prices(written(tmp_path, GOOD))
    assert (done.models, done.priced, done.previous) == (2, 1, None)
    before = done.path.read_text()
    done = update_prices(written(tmp_path, {**GOOD, "gpt-4o": {**GOOD["gpt-new"], "input_cost_per_token": 7e-6}}))
    assert (done.models, done.previous) == (3, done.path.with_name("prices.previous.json"))
    assert done.previous.read_text() == before
    assert {one.name for one in done.path.parent.glob("*.json")} == {"prices.json", "prices.previous.json"}
    price = PriceTable.load().price(model("openai/gpt-4o"))
    assert price.tiers[0][1].input == 7
    assert re.fullmatch(r"prices update of 20\d\d-\d\d-\d\d: gpt-4o", price.source)
    for broken in ("{", "[" * 99_999, "[]", '{"rows": {}}', '{"updated": "x", "rows": 3}'):
        done.path.write_text(broken)
        assert PriceTable.load().price(model("openai/gpt-4o")).source.startswith("litellm ")
    shipped = update_prices(str(data_file("litellm", "model_prices_and_context_window_backup.json")))
    assert (shipped.models > 4000, shipped.priced > 2000) == (True, True)


BAD = [
    ("{", "is not JSON"),
    ("[]", "prices no model"),
    ({"gpt": {"litellm_provider": "openai", "input_cost_per_token": "$3"}}, "prices no model"),
    (with_row(input_cost_per_token=float("nan")), "bad.input_cost_per_token is NaN"),
    (with_row(input_cost_per_token=-1e-6), r"bad.input_cost_per_token is -0.000001 \(expected a plain number"),
    (with_row(input_cost_per_token=True), "bad.input_cost_per_token is True"),
    (with_row(cache_read_input_token_cost=3), "expected USD for one token, at most 1"),
    (with_row(tiered_pricing=[7, {"range": [0, 1], "input_cost_per_token": -1}]), "bad.input_cost_per_token is -1"),
    (with_row(**{f"input_cost_per_token_{n}": -1 for n in range(12)}), "and 2 more"),
]


def test_a_bad_or_unreadable_table_changes_nothing(
    tmp_path: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prices come from a file or over https. Plain http is accepted on loopback only."""
    httpserver.expect_request("/good").respond_with_json(GOOD)
    httpserver.expect_request("/bytes").respond_with_data(b"\xff\xfe")
    target = tmp_path / "data" / "prices.json"
    assert update_prices(httpserver.url_for("/good"), path=target).models == 2
    before = target.read_text()

    def refused(source: str, says: str, path: Path = target) -> None:
        with pytest.raises(ConfigError, match=says):
            update_prices(source, path=path)

    for content, says in BAD:
        refused(written(tmp_path, content), says)
    refused(str(tmp_path / "nowhere.json"), r"cannot read .*nowhere\.json")
    refused(httpserver.url_for("/gone"), "500")
    refused(httpserver.url_for("/bytes"), "is not UTF-8")
    for url in ("http://prices.example/map.json", "file:///etc/passwd"):
        refused(url, "expected a file or an https:// address")
    source = written(tmp_path, GOOD)
    refused(source, "cannot write the price table", Path(source) / "prices.json")
    monkeypatch.setattr(price_rows, "LARGEST", 10)
    for large in (source, httpserver.url_for("/good")):
        refused(large, "larger than 10 bytes")
    assert target.read_text() == before
    assert [one.name for one in target.parent.iterdir()] == ["prices.json"]
