"""`spend` tells what was spent, in each form, and what is told is the same in all of them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from testronaut_llm.cli import main
from testronaut_llm.cli.spend import page
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.money.report import Spend, report
from testronaut_llm.money.reservation import Limit, Reservation
from testronaut_llm.records import Attempt, Usage
from testronaut_llm.support.paths import data_dir

Run = Callable[..., tuple[int, str, str]]
NOON = 20_000 * 86_400.0 + 43_200
CONFIG = """version: 1
models: {m: {model: openai/m, price: {input: 1, output: 1}}}
tasks: {t: {models: [m], budget: {per_day: 2}}}
budget: {scope: mine, per_month: 4, total: 100}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in a folder with an `llm.yaml`; its exit code, stdout and stderr."""
    (tmp_path / "llm.yaml").write_text(CONFIG)
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(tmp_path / "llm.yaml"))
    monkeypatch.chdir(tmp_path)

    def running(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["testronaut-llm", *arguments])
        try:
            main()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code or 0
        return (code, *capsys.readouterr())

    return running


def book(path: Path | None, *spent: tuple[float, str, str, str | None]) -> Ledger:
    """A ledger of attempts: days ago, task, model, cost."""
    now = [0.0]
    ledger = Ledger(path, scope=lambda: "mine", clock=lambda: now[0])
    for days, task, model, cost in spent:
        now[0] = _now(path) - days * 86_400
        amount = None if cost is None else Decimal(cost)
        name = f"openai/{model}"
        one = Reservation(ledger=ledger, scope="mine", task=task, model=model, provider_model=name, worst=amount)
        usage = Usage(prompt_tokens=1000, completion_tokens=10)
        one.reserve().settle(Attempt(model=model, provider_model=name, outcome="answer", usage=usage, cost=amount))
    now[0] = _now(path)
    return ledger


def _now(path: Path | None) -> float:
    import time

    return NOON if path is None else time.time()


@pytest.fixture
def spent() -> None:
    """Three requests of today and one of long ago, in the user's own ledger."""
    ledger = book(
        data_dir() / "ledger.sqlite3",
        (400, "t", "m", "0.5"),
        (0, "t", "m", "0.25"),
        (0, "u", "n", "1.5"),
        (0, "u", "m", None),
    )
    ledger.hit("t", "m", Decimal("0.125"))
    ledger.close()


@pytest.mark.usefixtures("spent")
def test_tables(run: Run) -> None:
    """By day, task and model, each with its sum, and the budgets with their bars."""
    code, out, _ = run("spend")
    assert code == 0
    assert "t\t2\t1\t2,000\t20\t$0.75\t$0.12\n" in out
    assert "u\t2\t0\t2,000\t20\t$1.50 + 1 of unknown price\t$0\n" in out
    assert out.count("all\t4\t1\t4,000\t40\t$2.25 + 1 of unknown price\t$0.12\n") == 3
    assert re.search(r"budget\.per_month\t####\.{6}\t\$1\.75\t\$0\t\$2\.25\t\$4\.00\t\d+ (d \d+ h|h \d+ min)\n", out)
    assert "budget.total\t..........\t$2.25\t$0\t$97.75\t$100.00\tnever\n" in out
    assert re.search(r"tasks\.t\.budget\.per_day\t#\.{9}\t\$0\.25\t\$0\t\$1\.75", out)


@pytest.mark.usefixtures("spent")
def test_each_form_tells_the_same(run: Run, tmp_path: Path) -> None:
    """JSON and the page hold the same sums; `--since` leaves out what is older, never what counts."""
    found = json.loads(run("spend", "--json")[1])
    assert (found["total"]["cost"], found["total"]["calls"], found["by_model"]["n"]["cost"]) == ("2.25", 4, "1.5")
    code, out, err = run("spend", "--html", "page.html", "--since", "30d")
    assert (code, out, err) == (0, "", "wrote page.html\n")
    assert "<b>$1.75</b><span>spent + 1 of unknown price</span>" in (tmp_path / "page.html").read_text()
    recent = json.loads(run("spend", "--since", "30d", "--json")[1])
    assert recent["total"]["cost"] == "1.75"
    assert {one["name"]: one["spent"] for one in recent["limits"]}["budget.total"] == "2.25"


@pytest.mark.usefixtures("spent")
def test_prune_keeps_the_sums(run: Run) -> None:
    """Requests of long ago become sums."""
    before = json.loads(run("spend", "--json")[1])["rows"]
    assert run("spend", "prune", "--older-than", "1d")[2] == "single requests deleted: 1; their sums stay\n"
    assert json.loads(run("spend", "--json")[1])["rows"] == before


def test_nothing_spent(run: Run, tmp_path: Path) -> None:
    """That is said, in each form, and no ledger is made."""
    code, out, err = run("spend", "--since", "2026-01-01")
    assert (code, err) == (0, "nothing has been spent since 2026-01-01 for mine\n")
    assert out.startswith("limit\t")
    run("spend", "--html", "page.html")
    assert "Nothing has been spent yet." in (tmp_path / "page.html").read_text()
    assert not data_dir().exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--since", "soon"), "expected a day such as"),
        (("--json", "--html", "x"), "expected one of them"),
        (("--html", "missing/page.html"), "cannot write missing/page.html"),
        (("prune", "--older-than", "old"), "expected a day such as"),
    ],
)
def test_what_is_wrong_is_said(run: Run, arguments: tuple[str, ...], says: str) -> None:
    """Exit code 2, and one message."""
    code, _, err = run("spend", *arguments)
    assert code == 2
    assert says in err


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        self.addresses += [name for name, _ in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_endtag(self, tag: str) -> None:
        if tag != "meta":
            assert self.open.pop() == tag


def _spend(*spent: tuple[float, str, str, str | None], limits: tuple[tuple[str | None, Limit], ...] = ()) -> Spend:
    return report(book(None, *spent), "mine", since=None, limits=limits)


def test_the_page_keeps_no_control_character(run: Run, tmp_path: Path) -> None:
    """Names are shown escaped, as on a terminal."""
    nasty = "a\x00\x1b]0;x\x07\x9b\u202e\u2066<b>"
    book(data_dir() / "ledger.sqlite3", (0, nasty, nasty, "1"))
    assert run("spend", "--html", str(tmp_path / "page.html"))[0] == 0
    text = (tmp_path / "page.html").read_text("utf-8")
    assert not re.search("[\\0-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066]", text)
    assert "\\u001b" in text


@pytest.mark.parametrize("days", [0, 40, 400, 3000])
def test_the_page_is_whole_by_itself(days: int) -> None:
    """No script, no address to fetch, every tag closed, and no name that could become a tag."""
    held = Limit(name="budget.total", period="total", amount=Decimal(1))
    spent = [(float(day), "<script>", f"m{day % 9}</title>", "0.5") for day in range(days)]
    text = page(_spend(*spent, limits=((None, held),)))
    read = Page(text)
    assert read.open == []
    assert read.addresses == []
    assert not {"script", "img", "link", "iframe", "object", "use"} & set(read.tags)
    assert not re.search(r"url\(|@import|https?:", text)
    assert "default-src 'none'" in text


def test_bars_are_stacked_and_merged() -> None:
    """A bar is a day, or a month where there are many days; models beyond the seventh share a colour."""
    parts = re.compile(r'<i class="(\w+)" style="height:([\d.]+)%" title="(.*?): (.*?), (.*?)">')
    few = _spend((1, "t", "a", "1"), (1, "t", "b", "3"), (0, "t", "a", "2"))
    first, last = few.by_day
    assert parts.findall(page(few)) == [
        ("s0", "25.00", first, "a", "$1.00"),
        ("s1", "75.00", first, "b", "$3.00"),
        ("s0", "50.00", last, "a", "$2.00"),
    ]
    many = parts.findall(page(_spend(*((float(n), "t", f"m{n % 9}", f"{1 + n % 9}") for n in range(124)))))
    assert {(kind, name) for kind, _, _, name, _ in many} == {
        *((f"s{place}", f"m{8 - place}") for place in range(6)),
        ("others", "others"),
    }
    assert [*dict.fromkeys(day for _, _, day, _, _ in many)] == ["2024-06", "2024-07", "2024-08", "2024-09", "2024-10"]


def test_a_page_without_costs_says_so() -> None:
    """A sentence in place of empty charts."""
    text = page(_spend((0, "t", "free", "0")))
    assert "Nothing has been spent yet: every answer so far was free, stored, or of unknown price." in text
    assert "By task" not in text
