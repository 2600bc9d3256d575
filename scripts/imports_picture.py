"""Draws which rooms and modules of the package import which, from the imports themselves; `pictures.py` calls it."""

from __future__ import annotations

import graphlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from source_tree import UP_FOR_TYPES, modules

HIGH, WIDE, GAP, LETTER = 66, 940, 26, 8.2
STYLE = (
    "text{font:13px ui-sans-serif,system-ui,'DejaVu Sans',sans-serif;fill:#20201f;text-anchor:middle}"
    "rect{fill:#eef0fb;stroke:#5c6bc0}path{fill:none;stroke:#7a7a76;stroke-width:1.2;marker-end:url(#tip)}"
)


def needed() -> dict[str, set[str]]:
    """Returns the parts that each part imports. Raises graphlib.CycleError if two need each other."""
    found: dict[str, set[str]] = {}
    for module in modules():
        if user := module.name and _part(module.name):
            used = {_part(one.name) for one in module.own_imports if (module.name, one.name) not in UP_FOR_TYPES}
            found.setdefault(user, set()).update(used - {user, ""})
    graphlib.TopologicalSorter(found).prepare()
    return found


def _part(name: str) -> str:
    """Returns the room, or the module that is in none; `telemetry` is three, since all use its log and redaction."""
    if name in ("", "telemetry"):
        return "" if name else "llm_manager"  # whose names the package exports
    return name.removesuffix(".telemetry") if name.startswith("telemetry.") else name.partition(".")[0]


def _rows(needs: dict[str, set[str]]) -> list[list[str]]:
    """Returns the parts from top to bottom: each one row above the highest that it imports."""
    level: dict[str, int] = {}
    for part in graphlib.TopologicalSorter(needs).static_order():
        level[part] = max((level[one] + 1 for one in needs.get(part, ())), default=0)
    return [sorted(one for one in level if level[one] == number) for number in range(max(level.values()), -1, -1)]


def _direct(needs: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Returns the arrows that no longer way replaces."""
    below: dict[str, set[str]] = {}
    for part in graphlib.TopologicalSorter(needs).static_order():
        below[part] = set().union(*({one} | below[one] for one in needs.get(part, ())))
    return [
        (part, one)
        for part, used in sorted(needs.items())
        for one in sorted(used)
        if not any(one in below[other] for other in used)
    ]


def imports_svg() -> str:
    """Returns the picture: each arrow points down, from a part to one that it imports."""
    needs = needed()
    rows, arrows = _rows(needs), _direct(needs)
    place: dict[str, tuple[float, int]] = {}
    for number, row in reversed(list(enumerate(rows))):
        wish = {part: [place[one][0] for user, one in arrows if user == part] for part in row}
        row.sort(key=lambda part: sum(wish[part]) / (len(wish[part]) or 1) if wish[part] else 0)
        for column, part in enumerate(row):
            place[part] = (WIDE * (2 * column + 1) / (2 * len(row)), 20 + HIGH * number)
    drawn = []
    for user, used in arrows:
        (x, y), (to_x, to_y) = place[user], place[used]
        bend = HIGH / 2 if to_y - y < 2 * HIGH else (to_y - y) / 2
        start, end = f"M{x:.0f} {y + 26}", f"{to_x:.0f} {to_y - 2}"
        drawn.append(f'<path d="{start} C{x:.0f} {y + 26 + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {end}"/>')
    for part, (x, y) in sorted(place.items()):
        wide = LETTER * len(part) + GAP
        drawn.append(f'<rect x="{x - wide / 2:.1f}" y="{y}" width="{wide:.1f}" height="26" rx="6"/>')
        drawn.append(f'<text x="{x:.1f}" y="{y + 18}">{part}</text>')
    tip = '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    high = 20 + HIGH * len(rows) - 20
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high}" width="{WIDE}" role="img">',
        f"<style>{STYLE}</style>",
        f'{tip}<path d="M0 0 L8 4 L0 8 z" style="fill:#7a7a76;stroke:none;marker-end:none"/></marker></defs>',
        f'<rect width="{WIDE}" height="{high}" style="fill:#fff;stroke:none"/>',
        *drawn,
        "</svg>\n",
    ))  # fmt: skip
