"""Makes the pictures of the documentation, or reports which of them are stale.

python scripts/pictures.py            write docs/pictures/; those of the spend page need Chromium
python scripts/pictures.py --check    exit 1 if a picture differs from what the program shows now
"""

from __future__ import annotations

import hashlib
import os
import pty
import shlex
import shutil
import subprocess
import sys
import tempfile
from decimal import Decimal
from html import escape
from pathlib import Path

from imports_picture import imports_svg

from testronaut_llm.cli.spend import page
from testronaut_llm.money.report import LimitState, Spend, SpendRow, Totals

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
COLUMNS = 84
CONFIG = """version: 1
models:
  sonnet: {model: anthropic/claude-sonnet-5-5, price: {input: 3, output: 15}, quality: 9}
  luna: {model: openai/gpt-4.1, price: {input: 2, output: 8}, quality: 7}
  nano: {model: openai/gpt-4.1-nano, price: {input: 0.1, output: 0.4}, quality: 4}
  azure: {model: azure/my-deployment, base_model: gpt-4.1, api_base: "${AZURE_API_BASE}", quality: 7}
tasks:
  cli_analysis: {models: [sonnet, luna, nano, azure], min_quality: 5, max_tokens: 1000}
"""
ROUTE = ["testronaut-llm", "route", "cli_analysis", "Explain `ls -la`"]


def terminal(command: list[str]) -> str:
    """Returns what a command prints on a terminal, with made-up keys and CONFIG as its llm.yaml."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "llm.yaml").write_text(CONFIG)
        env = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "TESTRONAUT_LLM_HOME": folder,
            "TESTRONAUT_LLM_CONFIG": f"{folder}/llm.yaml",
            "OPENAI_API_KEY": "sk-made-up",
            "ANTHROPIC_API_KEY": "sk-made-up",
            "COLUMNS": str(COLUMNS),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
        }
        ours, theirs = pty.openpty()
        with subprocess.Popen(command, env=env, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs):
            os.close(theirs)
            printed = b""
            while part := _read(ours):
                printed += part
        os.close(ours)
    return f"$ {shlex.join(command)}\n" + printed.decode().replace("\r\n", "\n").rstrip()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux reports the end of a terminal in this way
        return b""


def svg(text: str) -> str:
    """Returns a picture of a terminal that shows this text. It fetches no font."""
    wide, high = 8.4, 20
    lines = text.split("\n")
    drawn = "\n".join(
        f'<text x="20" y="{34 + high * number}" textLength="{wide * len(line):.1f}">{escape(line)}</text>'
        for number, line in enumerate(lines)
        if line
    )
    width, height = 40 + round(wide * COLUMNS), 34 + high * len(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">\n'
        "<style>text{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        "fill:#e8e8e4;white-space:pre}</style>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="#20201f"/>\n{drawn}\n</svg>\n'
    )


def spend_page() -> str:
    """Returns the page of `spend --html` for three made-up weeks."""
    shares = {"cli_analysis": (("luna", 40), ("sonnet", 9)), "test_generation": (("sonnet", 30),),
              "result_verification": (("luna", 12), ("nano", 4))}  # fmt: skip
    rows = [
        SpendRow(
            day=f"2026-11-{day:02}",
            task=task,
            model=model,
            totals=Totals(
                calls=calls,
                prompt_tokens=900 * calls,
                completion_tokens=400 * calls,
                cost=(cost := Decimal(cents * (5 + day * 7 % 11)) / 1000),
                hits=calls // 3,
                saved_by_cache=cost / 3,
            ),
        )
        for day in range(9, 30)
        if day % 7
        for task, models in shares.items()
        for model, cents in models
        if (calls := 20 + cents)
    ]
    sums: dict[str, dict[str, Totals]] = {"day": {}, "task": {}, "model": {}}
    for row in rows:
        for name, found in sums.items():
            key = getattr(row, name)
            found[key] = found.get(key, Totals()) + row.totals
    spent = {"per_day": (sums["day"]["2026-11-27"].cost, 5), "per_month": (sum(row.totals.cost for row in rows), 60)}
    limits = tuple(
        LimitState(
            name=name,
            limit=Decimal(limit),
            spent=Decimal(cost),
            reserved=Decimal(0),
            left=max(Decimal(limit) - cost, Decimal(0)),
            renewed_in=3600.0,
        )
        for name, (cost, limit) in spent.items()
    )
    return page(
        Spend(
            scope="/home/me/project/llm.yaml",
            since="2026-11-09",
            total=sum((row.totals for row in rows), Totals()),
            by_day=sums["day"],
            by_task=sums["task"],
            by_model=sums["model"],
            rows=tuple(rows),
            limits=limits,
        )
    )


def photograph(html: str, picture: Path, *, dark: bool) -> None:
    """Writes a picture of a page, taken by Chromium."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("pictures: no Chromium is here; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "page.html").write_text(html, "utf-8")
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        look = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1000,930", scheme]
        subprocess.run(
            [browser, *look, f"--user-data-dir={folder}/user", f"--screenshot={picture}", f"{folder}/page.html"],
            check=True,
            capture_output=True,
            timeout=60,
        )


def main(arguments: list[str]) -> int:
    """Writes or checks all pictures; returns the exit code."""
    html = spend_page()
    texts = {
        "imports.svg": imports_svg(),
        "route.svg": svg(terminal(ROUTE)),
        "spend.sha256": hashlib.sha256(html.encode()).hexdigest() + "\n",
    }
    stale = [
        name
        for name, text in texts.items()
        if not (PICTURES / name).exists() or (PICTURES / name).read_text("utf-8") != text
    ]
    if stale and "--check" in arguments:
        print(f"pictures: stale: {', '.join(stale)}; run: python scripts/pictures.py", file=sys.stderr)
        return 1
    for name in stale:
        if name == "spend.sha256":
            photograph(html, PICTURES / "spend.png", dark=False)
            photograph(html, PICTURES / "spend-dark.png", dark=True)
        (PICTURES / name).write_text(texts[name], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
