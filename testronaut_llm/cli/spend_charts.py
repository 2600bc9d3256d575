"""The charts of the page, in SVG: what each day cost, stacked by model, and bars that fill a width."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from html import escape

from testronaut_llm.money.report import Spend
from testronaut_llm.support.money import usd

SERIES = 7
"""Models with a colour of their own; the others share one."""

_MOST_BARS = 62
_WIDTH, _HEIGHT, _WIDEST = 1000, 220, 90
_LINES = 4


def series_of(found: Spend) -> list[str]:
    """The models in the order of their colours, the dearest first."""
    dearest = sorted(found.by_model, key=lambda name: found.by_model[name].cost, reverse=True)
    return dearest if len(dearest) <= SERIES else [*dearest[: SERIES - 1], ""]


def legend(series: Sequence[str]) -> str:
    """Which colour is which model."""
    marks = (
        f'<span><svg viewBox="0 0 10 10"><rect class="s{_colour(n, series)}" width="10" height="10" rx="3"/></svg>'
        f"{escape(name) or 'others'}</span>"
        for n, name in enumerate(series)
    )
    return f'<div class="legend">{"".join(marks)}</div>'


def days_chart(found: Spend, series: Sequence[str]) -> str:
    """What each day (or each span of as many days as make no more than 62 bars) cost, stacked by model."""
    first, last = (date.fromisoformat(day) for day in (min(found.by_day), max(found.by_day)))
    span = -(-((last - first).days + 1) // _MOST_BARS)
    columns: list[dict[str, Decimal]] = [{} for _ in range((last - first).days // span + 1)]
    for row in found.rows:
        column = columns[(date.fromisoformat(row.day) - first).days // span]
        name = row.model if row.model in series else ""
        column[name] = column.get(name, Decimal(0)) + row.totals.cost
    most = max(sum(column.values()) for column in columns) or Decimal(1)
    width = _WIDTH / len(columns)
    bars = "".join(
        _column(
            column, series, most, x=n * width, width=min(width * 0.8, _WIDEST), when=_when(first, last, n * span, span)
        )
        for n, column in enumerate(columns)
    )
    lines = "".join(
        f'<line class="grid-line" x1="0" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        for y in (_HEIGHT * n / _LINES for n in range(_LINES + 1))
    )
    scale = "".join(f"<span>{usd(most * n / _LINES)}</span>" for n in range(_LINES, -1, -1))
    dates = "".join(f"<span>{day}</span>" for day in dict.fromkeys((first, last)))
    return (
        f'<div class="days"><div class="scale">{scale}</div><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" height="{_HEIGHT}" '
        f'preserveAspectRatio="none" role="img" aria-label="Spend by day, from {first} to {last}">{lines}{bars}</svg>'
        f'<div class="dates">{dates}</div></div>'
    )


def row_of_bars(name: str, words: str, parts: Sequence[tuple[str, Decimal]]) -> str:
    """A name, its number in words, and a bar whose parts are shares of its whole width."""
    bars, x = "", Decimal(0)
    for kind, share in parts:
        width = min(share, 1 - x)
        bars += f'<rect class="{kind}" x="{x * 100:.2f}%" width="{width * 100:.2f}%" height="10" rx="3"/>'
        x += width
    track = '<rect class="track" width="100%" height="10" rx="3"/>'
    return (
        f'<div class="bar"><div><span>{escape(name)}</span><span>{escape(words)}</span></div>'
        f'<svg height="10" role="img" aria-label="{escape(name)}: {escape(words)}">{track}{bars}</svg></div>'
    )


def _column(
    column: dict[str, Decimal], series: Sequence[str], most: Decimal, *, x: float, width: float, when: str
) -> str:
    drawn, top = "", float(_HEIGHT)
    for n, name in enumerate(series):
        if not (cost := column.get(name)):
            continue
        height = float(cost / most) * _HEIGHT
        top -= height
        words = f"{when}: {name or 'others'}, {usd(cost)}"
        drawn += (
            f'<rect class="s{_colour(n, series)}" x="{x:.2f}" y="{top:.2f}" width="{width:.2f}" height="{height:.2f}">'
            f"<title>{escape(words)}</title></rect>"
        )
    return drawn


def _when(first: date, last: date, after: int, span: int) -> str:
    start = first + timedelta(days=after)
    return str(start) if span == 1 else f"{start} to {min(start + timedelta(days=span - 1), last)}"


def _colour(place: int, series: Sequence[str]) -> int:
    return SERIES if series[place] == "" else place
