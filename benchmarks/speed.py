"""What a call costs in time beside what others take for the same, as ratios of medians.

    python benchmarks/speed.py [--peers PYTHON] [--rounds 15] [--calls 300]

`--peers` is the Python of an environment of its own where DSPy is installed (`python -m venv peers && peers/bin/pip
install dspy`); without it the rows that compare with DSPy are left out. All requests go to a server of this script on
loopback. The machine should have nothing else to do: compare ratios, not seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

HITS, IN_A_ROW = 2000, 20
ANSWER = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }
).encode()
OURS = """
import time
from testronaut_llm import LLMManager
with LLMManager() as llm:
    llm.complete(None, "Say hello.")
    began = time.perf_counter()
    for _ in range({calls}):
        assert llm.complete(None, "Say hello.").cached
    print((time.perf_counter() - began) / max(1, {calls}) * 1e6)
"""
DSPY = """
import os, time
import dspy
dspy.configure_cache(enable_disk_cache=True, enable_memory_cache=False, disk_cache_dir=os.environ["DSPY_CACHEDIR"])
lm = dspy.LM("openai/gpt-4o-mini", api_base="{url}", api_key="none", max_tokens=100, temperature=0.0, num_retries=0)
lm("Say hello.")
began = time.perf_counter()
for _ in range({calls}):
    lm("Say hello.")
print((time.perf_counter() - began) / max(1, {calls}) * 1e6)
"""


class Handler(BaseHTTPRequestHandler):
    """Answers every request with the same words, a little later where it is told to."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Head and body in one packet, as real servers send them.
    asked, delay = 0, 0.0

    def do_POST(self) -> None:
        """One chat completion."""
        self.rfile.read(int(self.headers["content-length"]))
        Handler.asked += 1
        time.sleep(Handler.delay)
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def do_GET(self) -> None:
        """How many requests came; from now on each takes as many seconds as the path says."""
        told, Handler.asked, Handler.delay = str(Handler.asked).encode(), 0, float(self.path[1:])
        self.send_response(200)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def serve() -> None:
    """Answers for ever, in a process of its own as a real server would."""
    ThreadingHTTPServer.request_queue_size = 1024
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


@contextmanager
def served() -> Iterator[str]:
    """The URL of the server."""
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        try:
            yield f"http://127.0.0.1:{child.stdout.readline().strip()}"
        finally:
            child.terminate()


def run(python: str, code: str) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return time.perf_counter() - began, done.stdout


def pair(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, float]:
    """Medians of both, taken in turns so that a busy moment hits both."""
    taken = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    return statistics.median(a for a, _ in taken), statistics.median(b for _, b in taken)


def processes(python: str, rounds: int, url: str) -> Iterator[tuple[str, float, float, str]]:
    """The rows that start processes: ours beside DSPy's."""
    me, dspy = sys.executable, "import dspy"
    shown = "from testronaut_llm.cli import main; import sys; sys.argv[1:] = ['--help']; main()"
    ask = "from testronaut_llm.cli import main; import sys; sys.argv[1:] = ['run', 'default', 'Say hello.']; main()"
    cold, theirs = OURS.format(calls=0), DSPY.format(calls=0, url=url)
    for code, peer in ((cold, theirs), (ask, dspy)):
        run(me, code), run(python, peer)
    for name, mine, other, target in (
        ("import", "import testronaut_llm", dspy, "0.25"),
        ("new process, one answer from a warm disk cache", cold, theirs, "0.4"),
        ("`testronaut-llm --help`, beside `import dspy`", shown, dspy, "0.5"),
        ("`run` answered from the cache, beside `import dspy`", ask, dspy, "0.5"),
    ):
        yield name, *pair(rounds, lambda m=mine: run(me, m)[0], lambda o=other: run(python, o)[0]), target
    mine, other = OURS.format(calls=HITS), DSPY.format(calls=HITS, url=url)
    few = max(3, rounds // 5)
    yield "one hit in a running process", *pair(few, lambda: _told(me, mine), lambda: _told(python, other)), "0.5"


def _told(python: str, code: str) -> float:
    return float(run(python, code)[1]) / 1e6


def calls(number: int, url: str) -> Iterator[tuple[str, float, float, str]]:
    """The rows inside this process: one uncached call beside bare LiteLLM."""
    import litellm

    from testronaut_llm import LLMManager

    counter = iter(range(10**9))

    def timed(act: Callable[[str], Any]) -> float:
        """Several in a row: LiteLLM leaves a thread at work after a call, which falls into the next one's time."""
        began = time.perf_counter()
        for _ in range(IN_A_ROW):
            act(f"Say hello, {next(counter)}.")
        return (time.perf_counter() - began) / IN_A_ROW

    def bare(prompt: str) -> Any:
        messages = [{"role": "user", "content": prompt}]
        return litellm.completion("openai/gpt-4o-mini", messages, api_base=url, api_key="none", max_retries=0)

    with LLMManager() as llm:
        for mode, target in (("off", "1.05"), ("use", "1.10")):
            ours = partial(llm.complete, None, cache=mode)
            row = pair(number // IN_A_ROW, partial(timed, ours), partial(timed, bare))
            yield f"one uncached call, cache `{mode}`, beside `litellm.completion`", *row, target


def at_once(server: str) -> int:
    """How many requests a hundred identical concurrent calls become."""
    from testronaut_llm import LLMManager

    urlopen(f"{server}/0.3").close()
    with LLMManager() as llm, ThreadPoolExecutor(100) as pool:
        list(pool.map(lambda _: llm.complete(None, "All at once."), range(100)))
    with urlopen(f"{server}/0") as told:
        return int(told.read())


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", help="Python of an environment with DSPy")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
    with tempfile.TemporaryDirectory() as home, served() as server:
        url = f"{server}/v1"
        file = f"{home}/llm.yaml"
        row = f'{{model: openai/gpt-4o-mini, api_base: "{url}", price: {{input: 1, output: 2}}}}'
        Path(file).write_text(f"models: {{m: {row}}}\ntasks: {{default: {{models: m, max_tokens: 100}}}}\n", "utf-8")
        os.environ |= {"TESTRONAUT_LLM_HOME": home, "TESTRONAUT_LLM_CONFIG": file, "OPENAI_API_KEY": "none"}
        os.environ |= {"DSPY_CACHEDIR": f"{home}/dspy", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        print("| what | here | peer | ratio | target |\n| --- | --- | --- | --- | --- |")
        rows = [*(processes(options.peers, options.rounds, url) if options.peers else ()), *calls(options.calls, url)]
        for name, mine, other, target in rows:
            print(f"| {name} | {mine * 1e3:.3g} ms | {other * 1e3:.3g} ms | {mine / other:.2f} | <= {target} |")
        print(f"| 100 identical calls at once | {at_once(server)} requests | | | 1 |")
        if not options.peers:
            print("\nWithout --peers: the rows beside DSPy are left out.")


if __name__ == "__main__":
    main()
