"""One page with charts of what was spent. It is whole by itself: no script, and nothing to fetch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape

from testronaut_llm.cli.spend_charts import SERIES, days_chart, legend, row_of_bars, series_of
from testronaut_llm.money.report import DearCall, LimitState, Spend
from testronaut_llm.support.money import exact, usd

_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--panel:#f6f6f4;--ink:#1b1b1a;--soft:#62625e;--line:#dededa;--over:#c62f2f;
--s0:#2a78d6;--s1:#1baf7a;--s2:#e09a00;--s3:#4a3aa7;--s4:#e34948;--s5:#0d7d0d;--s6:#d9649b;--s7:#8a8a84}
@media(prefers-color-scheme:dark){:root{--ground:#161615;--panel:#20201f;--ink:#f2f2ef;--soft:#a5a59f;--line:#383835;
--over:#ef7070;--s0:#4a94ec;--s1:#22a878;--s2:#c98500;--s3:#9085e9;--s4:#e66767;--s5:#3fa03f;--s6:#d86a9c;--s7:#83837d}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 16px 48px}
h1{font-size:24px;margin:0}h2{font-size:16px;margin:0 0 12px}
p{margin:0;color:var(--soft);overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:16px;margin-top:16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;margin:20px 0 0}
section,.tile{background:var(--panel);border-radius:10px;padding:16px;min-width:0}
.wide{grid-column:1/-1}.tile b{display:block;font-size:22px;line-height:1.3}.tile span{color:var(--soft);font-size:13px}
svg{display:block;width:100%}
.days{display:grid;grid-template-columns:auto 1fr;gap:4px 8px;font-size:12px;color:var(--soft)}
.days .scale{display:flex;flex-direction:column;justify-content:space-between;text-align:right;height:220px}
.days .dates{grid-column:2;display:flex;justify-content:space-between}
.grid-line{stroke:var(--line);vector-effect:non-scaling-stroke}.track{fill:var(--line)}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:12px;font-size:13px}
.legend svg{display:inline-block;width:10px;height:10px;margin-right:6px}
.bar{margin-top:10px}.bar div{display:flex;justify-content:space-between;gap:12px;font-size:13px}
.bar span:first-child{overflow-wrap:anywhere}.bar span:last-child{white-space:nowrap;color:var(--soft)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px}
th,td{text-align:left;padding:6px 12px 6px 0;border-top:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:500;border:0}.n{text-align:right;font-variant-numeric:tabular-nums}
.over{fill:var(--over)}
""" + "".join(f".s{number}{{fill:var(--s{number})}}" for number in range(SERIES + 1))


@exact
def page(found: Spend) -> str:
    """The whole page, as HTML."""
    since = f"since {found.since}" if found.since else "all that is known"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What was spent</title><style>{_STYLE}</style></head>
<body><main><h1>What was spent</h1>
<p>{escape(found.scope) or "configurations made in Python"} · {since} · US dollars, days in UTC</p>
{_tiles(found)}
<div class="grid">{"".join(_sections(found))}</div></main></body></html>
"""


def _tiles(found: Spend) -> str:
    total = found.total
    unpriced = f" + {total.unpriced:,} of unknown price" if total.unpriced else ""
    tiles = (
        (usd(total.cost), f"spent{unpriced}"),
        (f"{total.calls:,}", "requests"),
        (_short(total.prompt_tokens + total.completion_tokens), "tokens"),
        (f"{total.hits:,}", "answers from the cache"),
        (usd(total.saved_by_cache), "saved by the cache"),
    )
    shown = "".join(f'<div class="tile"><b>{value}</b><span>{what}</span></div>' for value, what in tiles)
    return f'<div class="tiles">{shown}</div>'


def _short(count: int) -> str:
    return f"{count:,}" if count < 10**6 else f"{count / 10**6:,.1f} M"


def _sections(found: Spend) -> Iterable[str]:
    series = series_of(found)
    if found.rows:
        yield _section("Spend by day and model", days_chart(found, series) + legend(series), wide=True)
        costs = [(name, totals.cost) for name, totals in found.by_task.items()]
        yield _section("By task", _bars(costs))
    else:
        yield _section("Spend by day and model", "<p>Nothing has been spent yet.</p>", wide=True)
    total = found.total
    saved = [
        ("spent", total.cost),
        ("saved by the cache", total.saved_by_cache),
    ]
    yield _section("Spent and saved", _bars(saved))
    if found.limits:
        yield _section("Budgets", "".join(map(_limit, found.limits)), wide=True)
    if found.dearest:
        yield _section("The dearest requests", _table(found.dearest), wide=True)


def _section(title: str, content: str, *, wide: bool = False) -> str:
    return f'<section class="{"wide" if wide else ""}"><h2>{title}</h2>{content}</section>'


def _bars(amounts: Sequence[tuple[str, Decimal]]) -> str:
    most = max(*(amount for _, amount in amounts), Decimal(0)) or Decimal(1)
    ordered = sorted(amounts, key=lambda pair: -pair[1])
    return "".join(row_of_bars(name, usd(amount), [("s0", max(amount, Decimal(0)) / most)]) for name, amount in ordered)


def _limit(state: LimitState) -> str:
    words = f"{usd(state.spent)} of {usd(state.limit)}, {usd(state.left)} left"
    if state.reserved:
        words = f"{words}, {usd(state.reserved)} set aside"
    kind = "over" if state.left == 0 else "s0"
    return row_of_bars(state.name, words, [(kind, state.spent / state.limit), ("s7", state.reserved / state.limit)])


def _table(dearest: Sequence[DearCall]) -> str:
    rows = "".join(
        f"<tr><td>{escape(one.at[:16].replace('T', ' '))}</td><td>{escape(one.task)}</td><td>{escape(one.model)}</td>"
        f"<td>{escape(one.provider_model)}</td><td>{escape(one.outcome)}</td>"
        f'<td class="n">{one.prompt_tokens:,} + {one.completion_tokens:,}</td><td class="n">{usd(one.cost)}</td></tr>'
        for one in dearest
    )
    names = ("time", "task", "model", "is", "outcome")
    head = "".join(f"<th>{name}</th>" for name in names) + '<th class="n">tokens</th><th class="n">cost</th>'
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
