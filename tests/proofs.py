"""Which test proves what about which wire: the marker `proves`, and what the collected tests say by it.

`@pytest.mark.proves(what=None, by=None, wire=None, modes=())` stands on a test that sends a request over a wire and
holds what came back. A test that replays a cassette needs no arguments: wire, kind of call and server are read from
the recording. Others say `by` what they prove it. Sync or async is the test's parameter, or `modes` where one test does
both. A marked test that is skipped fails.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WIRES = ("openai", "azure classic", "azure v1", "anthropic", "ollama", "embedded")
KINDS = ("text", "stream", "schema", "embeddings", "error")
_PATHS = {
    "/openai/deployments/": "azure classic",
    "/openai/v1/": "azure v1",
    "/v1/messages": "anthropic",
    "/v1/": "openai",
    "/api/": "ollama",
}
_STREAMS = ("stream", "astream")
_MODES = {"complete": "sync", "acomplete": "async", "stream": "sync", "astream": "async"}


@dataclass(frozen=True, order=True)
class Proof:
    """One cell of the wire table that one test fills."""

    wire: str
    what: str
    mode: str
    by: str
    test: str


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "proves(what=None, by=None, wire=None, modes=()): fills a cell of docs/reference/wire-table.md"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    counted = item.get_closest_marker("proves") and not item.get_closest_marker("skip")  # which proves_of leaves out
    if report.skipped and counted and item.config.getoption("--llm-record") == "none":
        report.outcome, report.longrepr = "failed", "the wire table counts on this test: it may not be skipped"
    return report


def proofs_of(item: pytest.Item) -> Iterator[Proof]:
    """What a marked test proves; nothing for one without the mark, or one that will not run or is expected to fail."""
    mark = item.get_closest_marker("proves")
    if mark is None or any(item.get_closest_marker(name) for name in ("skip", "skipif", "xfail")):
        return
    given = (
        {"what": None, "by": None, "wire": None, "modes": ()}
        | dict(zip(("what",), mark.args, strict=False))
        | mark.kwargs
    )
    values = getattr(item, "callspec").params if hasattr(item, "callspec") else {}  # noqa: B009 (not typed)
    if cassette := item.get_closest_marker("cassette"):
        given |= {name: value for name, value in _recorded(cassette.args[0]).items() if not given[name]}
    if values.get("mode") in _STREAMS and given["what"] == "text":
        given["what"] = "stream"
    if isinstance(values.get("kind"), type):  # the class of error that is expected
        given["what"] = "error"
    wire = given["wire"] or values["wire"]
    wire = {"azure": "azure classic"}.get(wire, wire)
    assert wire in WIRES, f"{item.nodeid}: no such wire: {wire}"
    assert given["what"] in KINDS, f"{item.nodeid}: no such kind of call: {given['what']}"
    test = f"{item.path.name}::{getattr(item, 'originalname', item.name)}"
    for mode in given["modes"] or (_mode(values),):
        yield Proof(wire=wire, what=given["what"], mode=mode, by=str(given["by"]), test=test)


def _mode(values: dict[str, Any]) -> str:
    if "asynchronous" in values:
        return "async" if values["asynchronous"] else "sync"
    return _MODES.get(values.get("mode", "sync"), values.get("mode", "sync"))


def _recorded(name: str) -> dict[str, Any]:
    """Wire, kind of call and server, as the cassette has them."""
    recording = yaml.safe_load((ROOT / "cassettes" / f"{name}.yaml").read_text("utf-8"))
    asked, answered = recording["interactions"][0]["request"], recording["interactions"][0]["response"]
    path, body = asked["uri"].partition("127.0.0.1")[2], asked.get("json", {})
    what = "stream" if body.get("stream") else "text"
    if "embed" in path:
        what = "embeddings"
    elif body.get("format") or body.get("response_format"):
        what = "schema"
    if answered["status"] >= 400:
        what = "error"
    wire = next(wire for start, wire in _PATHS.items() if path.startswith(start))
    return {"wire": wire, "what": what, "by": f"cassette: {recording['recorded_from']}"}


class Collected:
    """A pytest plugin that keeps what the collected tests prove."""

    def __init__(self) -> None:
        self.proofs: set[Proof] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.proofs = {proof for item in session.items for proof in proofs_of(item)}


def marked_files() -> Iterator[Path]:
    """The test files that have the mark."""
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        if "pytest.mark.proves" in path.read_text("utf-8"):
            yield path


def main() -> int:
    """Print what the tests prove as JSON."""
    collected = Collected()
    files = [str(path) for path in marked_files()]
    options = ["--collect-only", "-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:randomly"]
    code = pytest.main([*options, "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), *files], [collected])
    sys.stdout.write(json.dumps([asdict(proof) for proof in sorted(collected.proofs)]))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
