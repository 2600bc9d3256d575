"""Times, sizes, money, and what unquoted text means."""

from __future__ import annotations

import contextlib
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from testronaut_llm.config.faults import FromEnvironment
from testronaut_llm.config.values import Limit, Names, Usd, Whole, scalar, seconds, size_in_bytes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"), ("on", "on"), ("yes", "yes"), ("no", "no"), ("2024-10-21", "2024-10-21"), ("1:30", "1:30"),
        ("010", 10), ("0o10", 8), ("0x1F", 31), ("-7", -7), ("+7", 7), ("1_000", "1_000"), ("1.", 1.0), (".5", 0.5),
        ("1e3", 1000.0), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        (".inf", math.inf), ("-.INF", -math.inf), ("9" * 5000, "9" * 5000), ("nan", "nan"),
    ],
)  # fmt: skip
def test_unquoted_text_means_what_yaml_1_2_says(text: str, value: object) -> None:
    """`off` stays a word and a date stays text, which YAML 1.1 would not do."""
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_nan_is_read_so_that_it_can_be_refused() -> None:
    """`.nan` is a number to YAML."""
    assert math.isnan(scalar(".nan"))  # type: ignore[arg-type]  # it is a float


@pytest.mark.parametrize(
    ("given_", "expected"),
    [(90, 90.0), (0.5, 0.5), ("30d", 2_592_000.0), ("12h", 43_200.0), ("10m", 600.0), ("1.5s", 1.5), ("250ms", 0.25),
     ("2w", 1_209_600.0), ("45", 45.0), (FromEnvironment("7"), 7.0), (FromEnvironment("7m"), 420.0)],
)  # fmt: skip
def test_times_are_seconds_or_have_a_unit(given_: object, expected: float) -> None:
    """Seconds, or a number with its unit."""
    assert seconds(given_) == expected


@pytest.mark.parametrize("bad", ["30y", "soon", "", "d", "-5s", True, None, [1], math.nan, math.inf, "1e3s"])
def test_what_is_no_time_is_refused(bad: object) -> None:
    """The message shows what a time looks like."""
    with pytest.raises(ValueError, match="such as 30d"):
        seconds(bad)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (5, 5),
        ("1GiB", 1024**3),
        ("1 gib", 1024**3),
        ("500MB", 500_000_000),
        ("2kB", 2000),
        ("1.5KiB", 1536),
        ("7", 7),
        ("3B", 3),
    ],
)
def test_sizes_are_bytes_or_have_a_unit(given_: object, expected: int) -> None:
    """A kB counts 1000s and a KiB 1024s."""
    assert size_in_bytes(given_) == expected


@pytest.mark.parametrize("bad", ["1G", "big", "1GiBB", "-1MB", False])
def test_what_is_no_size_is_refused(bad: object) -> None:
    """The message shows what a size looks like."""
    with pytest.raises(ValueError, match="such as 1GiB"):
        size_in_bytes(bad)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (0.1, "0.1"),
        (5, "5"),
        (Decimal("0.30"), "0.30"),
        ("0.25", "0.25"),
        (FromEnvironment("2"), "2"),
        ("1e-6", "0.000001"),
    ],
)
def test_money_is_exact(given_: object, expected: str) -> None:
    """0.1 in the file is a tenth of a dollar, not its binary neighbour."""
    assert TypeAdapter(Usd).validate_python(given_) == Decimal(expected)


@pytest.mark.parametrize("bad", ["$5", "5 USD", "5€", "£3.50"])
def test_a_currency_sign_is_answered_with_the_number_alone(bad: str) -> None:
    """The mend is the number without the sign."""
    with pytest.raises(ValidationError, match=r"write the number alone, (5|3\.50), in US dollars"):
        TypeAdapter(Usd).validate_python(bad)


@pytest.mark.parametrize(
    "bad", [-1, "-0.5", math.nan, math.inf, "NaN", Decimal("NaN"), Decimal("inf"), True, None, "much"]
)
def test_money_is_a_finite_number_of_at_least_nothing(bad: object) -> None:
    """Negative, infinite and undefined amounts are refused."""
    with pytest.raises(ValidationError):
        TypeAdapter(Usd).validate_python(bad, strict=True)


def test_a_limit_of_nothing_is_refused() -> None:
    """A budget of 0 would be a way to switch everything off by accident."""
    with pytest.raises(ValidationError):
        TypeAdapter(Limit).validate_python(0)


def test_one_name_stands_for_a_list_of_one() -> None:
    """`models: sonnet` is `models: [sonnet]`."""
    names = TypeAdapter(Names)
    assert names.validate_python("a", strict=True) == names.validate_python(["a"], strict=True) == ("a",)


def test_only_text_from_the_environment_becomes_a_number() -> None:
    """A number in quotes in the file is a mistake; a variable has no other way."""
    assert TypeAdapter(Whole).validate_python(FromEnvironment("8"), strict=True) == 8
    with pytest.raises(ValidationError):
        TypeAdapter(Whole).validate_python("8", strict=True)


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    """No text makes the readers fail in another way."""
    scalar(text)
    for read in (seconds, size_in_bytes):
        with contextlib.suppress(ValueError):
            assert math.isfinite(read(text))
