"""Times, sizes, money, and the meaning of unquoted text."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from pydantic import TypeAdapter, ValidationError

from testronaut_llm.config.problems import FromEnvironment
from testronaut_llm.config.sections import Usd, scalar, seconds, size_in_bytes

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
