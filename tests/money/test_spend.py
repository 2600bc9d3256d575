"""`spend` shows the same sums in each form."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from manager_kit import Run

from testronaut_llm.cli.spend import page
from testronaut_llm.money.budgets import Limit, Reservation
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.money.report import Spend, report
from testronaut_llm.records import Attempt, Usage
from testronaut_llm.support.paths import data_dir

NOON = 20_000 * 86_400.0 + 43_200
CONFIG = """version: 1
models: {m: {model: openai/m, price: {input: 1, output: 1}}}
tasks: {t: {models: [m], budget: {per_day: 2}}}
budget: {scope: mine, per_month: 4, total: 100}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llm.yaml").write_text(CONFIG)
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(tmp_path / "llm.yaml"))
    monkeypatch.chdir(tmp_path)


def book(path: Path | None, *spent: Any) -> Ledger:
    """A ledger of attempts: days ago, task, model, cost. One in memory lives at a fixed noon."""
    today, days = NOON if path is None else time.time(), [0.0]
    ledger = Ledger(path, clock=lambda: today - days[0] * 86_400)
    for days[0], task, model, cost in spent:
        facts = {"model": model, "provider_model": f"openai/{model}"}
        amount, usage = cost and Decimal(cost), Usage(prompt_tokens=1000, completion_tokens=10)
        one = Reservation(ledger=ledger, scope="mine", task=task, worst=amount, **facts)  # type: ignore[arg-type]
        one.reserve().settle(Attempt(outcome="answer", usage=usage, cost=amount, **facts))  # type: ignore[arg-type]
    days[0] = 0
    return ledger


@pytest.fixture
def spent() -> None:
    """Three requests of today and one of long ago, in the user's own ledger."""
    rows = (400, "t", "m", "0.5"), (0, "t", "m", "0.25"), (0, "u", "n", "1.5"), (0, "u", "m", None)
    ledger = book(data_dir() / "ledger.sqlite3", *rows)
    ledger.hit("mine", "t", "m", Decimal("0.125"))
    ledger.close()


@pytest.mark.usefixtures("spent")
def test_each_form_shows_the_same_sums_and_limits(run: Run, tmp_path: Path) -> None:
    """`--since` leaves out older requests, but not from limits."""
    out = run("spend")[1]
    assert "t\t2\t1\t2,000\t20\t$0.75\t$0.12\n" in out
    assert "u\t2\t0\t2,000\t20\t$1.50 + 1 of unknown price\t$0\n" in out
    assert out.count("all\t4\t1\t4,000\t40\t$2.25 + 1 of unknown price\t$0.12\n") == 3
    assert re.search(r"budget\.per_month\t####\.{6}\t\$1\.75\t\$0\t\$2\.25\t\$4\.00\t\d+ (d \d+ h|h \d+ min)\n", out)
    assert "budget.total\t..........\t$2.25\t$0\t$97.75\t$100.00\tnever\n" in out
    assert re.search(r"tasks\.t\.budget\.per_day\t#\.{9}\t\$0\.25\t\$0\t\$1\.75", out)
    found = json.loads(run("spend", "--json")[1])
    assert (found["total"]["cost"], found["total"]["calls"], found["by_model"]["n"]["cost"]) == ("2.25", 4, "1.5")
    code, out, err = run("spend", "--html", "page.html", "--since", "30d")
    assert (code, out, err) == (0, "", "wrote page.html\n")
    assert "<b>$1.75</b><span>spent + 1 of unknown price</span>" in (tmp_path / "page.html").read_text()
    recent = json.loads(run("spend", "--since", "30d", "--json")[1])
    assert recent["total"]["cost"] == "1.75"
    assert {one["name"]: one["spent"] for one in recent["limits"]}["budget.total"] == "2.25"


@pytest.mark.usefixtures("spent")
def test_prune_keeps_the_sums_and_the_use_of_limits(run: Run) -> None:
    def sums() -> tuple[Any, ...]:
        found = json.loads(run("spend", "--json")[1])
        return found["rows"], found["total"], {one["name"]: one["left"] for one in found["limits"]}

    before = sums()
    for older_than, deleted in (("1d", 1), ("9999-01-01", 3), ("9999-01-01", 0)):
        told = f"single requests deleted: {deleted}; their sums stay\n"
        assert run("spend", "prune", "--older-than", older_than)[2] == told
        assert sums() == before


def test_nothing_spent(run: Run, tmp_path: Path) -> None:
    code, out, err = run("spend", "--since", "2026-01-01")
    assert (code, err) == (0, "nothing has been spent since 2026-01-01 for mine\n")
    assert out.startswith("limit\t")
    run("spend", "--html", "page.html")
    assert "Nothing has been spent yet." in (tmp_path / "page.html").read_text()
    assert run("spend", "prune", "--older-than", "1d")[2] == "single requests deleted: 0; their sums stay\n"
    assert not data_dir().exists()
    free = page(spend_of((0, "t", "free", "0")))  # has a sentence instead of empty charts
    assert "Nothing has been spent yet: every answer so far was free, stored, or of unknown price." in free
    assert "By task" not in free


def test_what_is_wrong_is_said(run: Run) -> None:
    for arguments, says in {
        "--since soon": "expected a day such as",
        "--json --html x": "expected one of them",
        "--html missing/page.html": "cannot write missing/page.html",
        "prune --older-than old": "expected a day such as",
    }.items():
        code, _, err = run("spend", *arguments.split())
        assert (code, says in err) == (2, True), err


def spend_of(*spent: Any, limits: tuple[Limit, ...] = ()) -> Spend:
    return report(book(None, *spent), "mine", since=None, limits=limits)


@pytest.mark.parametrize("days", [0, 40, 800])
def test_the_page_is_whole_by_itself(days: int) -> None:
    """No script, no address to fetch, every tag closed, no name that could become a tag, no control character."""
    nasty = "a\x00\x1b]0;x\x07\x9b\u202e\u2066<b>"
    spent = [(float(day), ("<script>", nasty)[day % 2], f"m{day % 9}</title>", "0.5") for day in range(days)]
    text = page(spend_of(*spent, limits=(Limit(name="budget.total", period="total", amount=Decimal(1)),)))
    opened, closed = Counter(re.findall(r"<(\w+)", text)), Counter(re.findall(r"</(\w+)", text))
    del opened["meta"]
    assert opened == closed
    assert not {"script", "img", "link", "iframe", "object", "use"} & set(opened)
    assert not re.search(r"\s(src|href|srcset|data|action)\s*=|url\(|@import|https?:", text)
    assert not re.search(r"[\0-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066]", text)
    assert "default-src 'none'" in text
    assert ("\\u001b" in text) is (days > 0)


def test_bars_are_stacked_and_merged() -> None:
    """A bar is a day, or a month if there are many days; models after the seventh share a colour."""
    parts = re.compile(r'<i class="(\w+)" style="height:([\d.]+)%" title="(.*?): (.*?), (.*?)">')
    few = spend_of((1, "t", "a", "1"), (1, "t", "b", "3"), (0, "t", "a", "2"))
    first, last = few.by_day
    bars = [("s0", "25.00", first, "a", "$1.00"), ("s1", "75.00", first, "b", "$3.00")]
    assert parts.findall(page(few)) == [*bars, ("s0", "50.00", last, "a", "$2.00")]
    many = parts.findall(page(spend_of(*((float(n), "t", f"m{n % 9}", f"{1 + n % 9}") for n in range(124)))))
    kinds = {name: kind for kind, _, _, name, _ in many}
    assert kinds == {**{f"m{8 - place}": f"s{place}" for place in range(6)}, "others": "others"}
    assert [*dict.fromkeys(day for _, _, day, _, _ in many)] == ["2024-06", "2024-07", "2024-08", "2024-09", "2024-10"]
