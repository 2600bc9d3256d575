"""Runs all speed benchmarks and prints one Markdown table with date, machine and versions.

    python benchmarks/speed.py --peers PYTHON [--quick 1]

PYTHON is the interpreter of an environment with DSPy. Without it, rows that compare with DSPy are left out.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from bench import HEAD, options

SCRIPTS = (
    "start_up",
    "warm_hit",
    "uncached_call",
    "throughput",
    "many_entries",
    "identical_calls",
    "batch_memory",
    "endurance",
)
QUICK = {
    "start_up": ("--rounds", "3"),
    "warm_hit": ("--rounds", "2", "--hits", "500"),
    "uncached_call": ("--rounds", "5"),
    "throughput": ("--rounds", "1"),
    "many_entries": ("--entries", "100000"),
    "batch_memory": ("--lines", "10000"),
    "endurance": ("--calls", "1000"),
}


def main() -> None:
    """Runs each script in a process of its own, so that none uses what another has loaded."""
    given = options(__doc__, quick=0)
    code = "from importlib.metadata import version; print(version('dspy'))"
    peer = (
        subprocess.run([given.peers, "-c", code], capture_output=True, text=True, check=True) if given.peers else None
    )
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, LiteLLM {metadata.version('litellm')}"
        + (f", DSPy {peer.stdout.strip()}" if peer else "")
        + f"\n\n{HEAD}"
    )
    for name in SCRIPTS:
        script = Path(__file__).with_name(f"{name}.py")
        peers = ["--peers", given.peers] if given.peers else []
        numbers = QUICK.get(name, ()) if given.quick else ()
        done = subprocess.run([sys.executable, script, *peers, *numbers], stdout=subprocess.PIPE, text=True, check=True)
        print(done.stdout.removeprefix(f"{HEAD}\n"), end="", flush=True)


if __name__ == "__main__":
    main()
