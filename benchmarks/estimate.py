"""Measures time and memory of `estimate` for 100,000 lines, compared with 10,000, and its error against the bill.

    python benchmarks/estimate.py [--lines 100000] [--asked 500] [--learned 32] [--embedded 60]

Each estimate is a dry run of `run --batch` in a process of its own; all prompts are different. For the bill, a server
on loopback answers with 20 to 60 tokens. It counts prompts by an unknown rule: a token for each three characters, and
11 for its template. After `--learned` answers, the other prompts are estimated, then asked. The same is done with the
embedded model and `--embedded` prompts, if `testronaut-llm models pull embedded/smollm2-135m` has stored it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench import Row, home, options, show

PROGRAM = """
import resource, sys, time
from testronaut_llm.cli import app
began = time.perf_counter()
app(["run", "default", "--batch", sys.argv[1], "--dry-run"], standalone_mode=False)
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
"""


def prompt(number: int) -> str:
    """Returns a prompt of 12 to 120 words."""
    return f"Option {number}: " + "explain what it does to the files in a folder. " * (number % 10 + 1)


class Handler(BaseHTTPRequestHandler):
    """Answers a chat; the length of the prompt sets the number of tokens."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self) -> None:
        """Answers a chat."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][-1]["content"]
        asked, answered = len(text) // 3 + 11, 20 + zlib.crc32(text.encode()) % 41
        usage = {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}
        message = {"role": "assistant", "content": "word " * answered}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        facts = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        answer = json.dumps({**facts, "choices": choices, "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


def dry_run(folder: Path, lines: int) -> tuple[float, float]:
    """Returns seconds and megabytes."""
    file = folder / f"{lines}.jsonl"
    with file.open("w", encoding="utf-8") as written:
        written.writelines(json.dumps(prompt(number)) + "\n" for number in range(lines))
    command = [sys.executable, "-c", PROGRAM, str(file)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    assert f"{lines:,} prompts, 0 cached, 0 refused" in done.stderr
    seconds, megabytes = map(float, done.stdout.split()[-2:])
    return seconds, megabytes


def bill(learned: int, asked: int, prompt: Callable[[int], str] = prompt) -> tuple[float, float]:
    """Returns USD estimated and USD spent."""
    from testronaut_llm import LLMManager

    with LLMManager() as llm:
        llm.batch(None, [prompt(-number) for number in range(1, learned + 1)])
        prompts = [prompt(number) for number in range(asked)]
        found, before = llm.estimate(None, prompts), llm.session.cost
        llm.batch(None, prompts)
        return float(found.route.cost or 0), float(llm.session.cost - before)


EMBEDDED = """
models: {m: {model: embedded/smollm2-135m, price: {input: 1, output: 4}}}
tasks: {default: {models: m, max_tokens: 80, allow_truncated: true}}
"""
VERBS = ("copy", "move", "list", "find", "sort", "count", "pack", "compare")
THINGS = ("files", "folders", "lines", "users", "processes", "ports")


def question(number: int) -> str:
    """Returns a short question about one option of a tool, as Testronaut asks it."""
    verb, thing = VERBS[number % len(VERBS)], THINGS[number // len(VERBS) % len(THINGS)]
    return f"What would the option --limit {abs(number) + 2} of a command that can {verb} {thing} do?"


def embedded_row(given: argparse.Namespace) -> Iterator[Row]:
    """Yields one row, or none if the model is not stored."""
    from testronaut_llm.support.paths import data_dir

    models = data_dir() / "models"
    if not (models / "smollm2-135m.gguf").is_file():
        return
    with home("") as folder:
        (folder / "data").mkdir()
        (folder / "data" / "models").symlink_to(models.resolve())
        (folder / "llm.yaml").write_text(EMBEDDED, "utf-8")
        what = f"USD of {given.embedded:,} prompts to the embedded model, beside the bill"
        yield Row(what, *bill(given.learned, given.embedded, question), "0.90 to 1.10", "USD")


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Yields three rows, and one of the embedded model."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with home(f"http://127.0.0.1:{server.server_address[1]}") as folder:
        text = (folder / "llm.yaml").read_text("utf-8")
        (folder / "llm.yaml").write_text(text.replace("openai/gpt-4o-mini", "openai/nobody-knows-it"), "utf-8")
        few, many = dry_run(folder, given.lines // 10), dry_run(folder, given.lines)
        what = f"of an estimate of {given.lines:,} lines, beside {given.lines // 10:,}"
        yield Row(f"seconds {what}", many[0], few[0], "60 s", "s")
        yield Row(f"memory {what}", many[1], few[1], "flat", "MB")
        figures = bill(given.learned, given.asked)
        yield Row(f"USD of {given.asked:,} prompts, beside the bill", *figures, "0.90 to 1.10", "USD")
    server.shutdown()
    yield from embedded_row(given)


if __name__ == "__main__":
    show(rows(options(__doc__, lines=100_000, asked=500, learned=32, embedded=60)))
