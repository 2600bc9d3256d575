"""Counts the files and functions of the package that one warm uncached call enters, on all threads.

python benchmarks/walk.py [--list]
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from bench import home, served

import testronaut_llm

PACKAGE = f"{Path(testronaut_llm.__file__).parent}/"


class Walk:
    """Counts the calls of functions of the package while it is on.

    Attributes:
        entered: how often each function was called, by file and name.
    """

    def __init__(self) -> None:
        self.entered: Counter[tuple[str, str]] = Counter()
        self.on = False

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Counts a call; this is the hook of `sys.setprofile`."""
        if self.on and event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.entered[frame.f_code.co_filename.removeprefix(PACKAGE), frame.f_code.co_qualname] += 1


def main() -> None:
    """Prints the counts; with `--list`, also each file and function."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="name the files and their functions")
    arguments, walk = parser.parse_args(), Walk()
    with served() as url, home(url), testronaut_llm.LLMManager() as llm:
        llm.warm_up()  # LiteLLM is slow to load while it is watched
        threading.setprofile(walk)
        sys.setprofile(walk)
        for number in range(20):
            llm.complete(None, f"Say hello, {number}.")
        walk.on = True
        llm.complete(None, "Say hello again.")
        walk.on = False
    files = sorted({file for file, _ in walk.entered})
    print(f"{len(files)} files, {len(walk.entered)} functions, {walk.entered.total()} calls")
    for file in files if arguments.list else ():
        names = (f"{name} ({count})" for (one, name), count in walk.entered.items() if one == file)
        print(f"  {file}: {', '.join(names)}")


if __name__ == "__main__":
    main()
