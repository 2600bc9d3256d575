"""From tokens counted to tokens charged: a line fitted to what answers reported, deaf to outliers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[int, int]
"""Tokens counted in the text, tokens charged beyond the framing."""

_NOISE = 0.05  # how far a good estimate may be off, as a share of what was charged
_LEAST_NOISE = 1.5  # and in tokens
_ROUNDS = 12
_FAR = (100.0, 4.0)  # for the start that trusts the points: offsets are surprising more often than slopes
_STILL = 0.01  # tokens; a line that moves less has settled


@dataclass(frozen=True, slots=True)
class Line:
    """charged = offset + slope * counted."""

    offset: float
    slope: float

    def at(self, counted: int) -> float:
        """Tokens that will be charged for so many counted ones, without the framing."""
        return self.offset + self.slope * counted


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed before anything was observed, and how far that may easily be from the truth.

    Like a point it loses weight with distance: enough observations overrule any prior.
    """

    slope: float
    offset_spread: float
    slope_spread: float


def fit(points: Sequence[Point], prior: Prior) -> Line:
    """The line that most of the points agree on.

    A prompt with something in it that was not counted (thinking, a cut, tools) lies far off the
    line of the others; its weight falls with the square of its distance (Cauchy). Fitting starts
    once from the prior and once from all points alike, and the better end wins, so that neither a
    wrong prior nor one wild point decides.
    """
    believed = Line(0.0, prior.slope)
    if not points:
        return believed
    starts = (believed, _solve(points, [1.0] * len(points), prior, _FAR))
    return min((_settle(points, start, prior) for start in starts), key=lambda line: _loss(points, line, prior))


def _settle(points: Sequence[Point], line: Line, prior: Prior) -> Line:
    longest = max(counted for counted, _ in points)
    for _ in range(_ROUNDS):
        weights = [1 / (1 + _distance(point, line) ** 2) for point in points]
        before, line = line, _solve(points, weights, prior, _strain(line, prior))
        if abs(line.offset - before.offset) + abs(line.at(longest) - before.at(longest)) < _STILL:
            break
    return line


def _solve(points: Sequence[Point], weights: Sequence[float], prior: Prior, strain: tuple[float, float]) -> Line:
    """Weighted least squares in two unknowns, held by the prior."""
    one = prior.offset_spread**-2 / (1 + strain[0])
    x, xx = 0.0, prior.slope_spread**-2 / (1 + strain[1])
    y, xy = 0.0, prior.slope * xx
    for (counted, charged), weight in zip(points, weights, strict=True):
        share = weight / _noise(charged) ** 2
        one, x, xx = one + share, x + share * counted, xx + share * counted**2
        y, xy = y + share * charged, xy + share * counted * charged
    determinant = one * xx - x * x
    return Line((y * xx - x * xy) / determinant, (one * xy - x * y) / determinant)


def _loss(points: Sequence[Point], line: Line, prior: Prior) -> float:
    held = sum(map(math.log1p, _strain(line, prior)))
    return held + sum(math.log1p(_distance(point, line) ** 2) for point in points)


def _strain(line: Line, prior: Prior) -> tuple[float, float]:
    """How far the line is from what was believed, squared."""
    return (line.offset / prior.offset_spread) ** 2, ((line.slope - prior.slope) / prior.slope_spread) ** 2


def _distance(point: Point, line: Line) -> float:
    counted, charged = point
    return (charged - line.at(counted)) / _noise(charged)


def _noise(charged: int) -> float:
    return max(_LEAST_NOISE, _NOISE * charged)
