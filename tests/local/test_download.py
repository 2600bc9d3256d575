"""Downloads over HTTP from a local server with the failures of real ones."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from manager_kit import eventually, program
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import download
from testronaut_llm.local.download import Progress
from testronaut_llm.local.model_downloader import fetch
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.support.paths import size_of

Behaviour = Callable[[Request, "Site"], Response]


class Site:
    """A web server with one file; `script` sets the next replies, and then it answers correctly."""

    def __init__(self, server: HTTPServer, data: bytes) -> None:
        self.data, self.tag, self.address = data, '"v1"', server.url_for("").rstrip("/")
        self.script: list[Behaviour] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.url = f"{self.address}/m.gguf"
        server.expect_request(re.compile(".*")).respond_with_handler(self._answer)

    @property
    def pinned(self) -> str:
        return f"{self.url}#sha256={hashlib.sha256(self.data).hexdigest()}"

    def _answer(self, request: Request) -> Response:
        self.requests.append((request.path, dict(request.headers)))
        return (self.script.pop(0) if self.script else well)(request, self)


def well(request: Request, site: Site) -> Response:
    span, unchanged, size = request.headers.get("Range"), request.headers.get("If-Range"), len(site.data)
    start = int(span.removeprefix("bytes=").rstrip("-")) if span and unchanged == site.tag else 0
    if start >= size:
        return Response("", 416, {"Content-Range": f"bytes */{size}"})
    about = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
    return Response(site.data[start:], 206 if start else 200, {"ETag": site.tag, **about})


def cut_at_half(_: Request, site: Site) -> Response:
    half = iter([site.data[: len(site.data) // 2]])
    return Response(half, 200, {"Content-Length": str(len(site.data)), "ETag": site.tag})


def status(code: int, **headers: str) -> Behaviour:
    return lambda *_: Response("", code, {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.fixture
def site(httpserver: HTTPServer, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    return Site(httpserver, tiny_gguf.read_bytes())


@pytest.fixture
def hub(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("HF_ENDPOINT", f"{site.address}/")
    monkeypatch.setenv("HF_TOKEN", "\ufeffhf_sentinel\r\n")
    return site


@pytest.mark.parametrize(("before", "after"), [('"v1"', '"v2"'), ('W/"weak"', 'W/"weak"')])
def test_halves_of_different_files_are_never_joined(empty: ModelStore, site: Site, before: str, after: str) -> None:
    """If the file has changed, or the server cannot prove that it has not, the download starts over."""
    site.tag, site.script = before, [cut_at_half]
    new = site.data[:-8] + bytes(8)

    def change(progress: Progress) -> None:
        if progress.note.startswith("retry"):
            site.tag, site.data = after, new

    fetch(site.url, store=empty, progress=change)
    assert empty.path("m").read_bytes() == new


@pytest.mark.parametrize(
    ("more", "note", "ranges"),
    [
        (b"", {"url": "m.gguf", "tag": '"v1"'}, [True]),
        (b"\0", {"url": "m.gguf", "tag": '"v1"'}, [True, False]),
        (b"", {"url": "elsewhere.gguf", "tag": '"v1"'}, [False]),
        (b"", [], [False]),
    ],
    ids=["complete", "too long", "of another file", "broken note"],
)
def test_a_part_is_continued_if_it_is_of_the_same_file(
    empty: ModelStore, site: Site, more: bytes, note: Any, ranges: list[bool]
) -> None:
    parts = empty.folder / ".parts" / "m"
    parts.mkdir(parents=True)
    (parts / "model.part").write_bytes(site.data + more)
    (parts / "model.json").write_text(json.dumps(note).replace('"url": "', f'"url": "{site.address}/'))
    fetch(site.url, store=empty)
    assert empty.path("m").read_bytes() == site.data
    assert ["Range" in headers for _, headers in site.requests] == ranges


@pytest.mark.parametrize("span", ["", "bytes 0-1/" + "9" * 5000, f"bytes {'9' * 5000}-1/5", "bytes 0-1/x", "bytes */9"])
@pytest.mark.parametrize("code", [206, 416])
def test_an_answer_for_a_part_that_does_not_say_which_is_not_used(
    empty: ModelStore, site: Site, code: int, span: str
) -> None:
    site.script = [
        cut_at_half,
        lambda _, site: Response(site.data[:9], code, {"Content-Range": span, "ETag": site.tag}),
    ]
    fetch(site.url, store=empty)
    assert empty.path("m").read_bytes() == site.data
    assert ["Range" in headers for _, headers in site.requests] == [False, True, False]


def test_a_server_that_keeps_failing_is_given_up_and_the_part_kept(empty: ModelStore, site: Site) -> None:
    endless = status(302, Location="x" * 20_000 + "/")  # until the URL is too long
    site.script = [cut_at_half, *[endless] * 4, *[status(503)] * 3]
    seen: list[Progress] = []
    with pytest.raises(LocalModelError, match=rf"fetched: status 503\. {len(site.data) // 2:,} bytes are kept"):
        fetch(site.url, store=empty, progress=seen.append)
    assert {progress.total for progress in seen if not progress.note} == {len(site.data)}
    fetch(site.url, store=empty)
    assert empty.path("m").read_bytes() == site.data
    assert len(site.requests) == 9
    for _, again in site.requests[1:]:
        assert (again["Range"], again["If-Range"]) == (f"bytes={len(site.data) // 2}-", '"v1"')
        assert again["Accept-Encoding"] == "identity"  # no file could be continued from packed bytes


def test_a_file_of_unknown_length_needs_a_digest(empty: ModelStore, site: Site) -> None:
    """Without Content-Length only the digest shows that a connection closed early."""
    site.script = [lambda _, site: Response(iter([site.data]))] * 9
    fetch(site.pinned, store=empty)
    assert empty.path("m").read_bytes() == site.data
    with pytest.raises(LocalModelError, match=r"the server does not send the size.*#sha256="):
        fetch(site.url, store=empty, name="other")
    pinned, site.data = site.pinned, site.data[:-1]
    with pytest.raises(LocalModelError, match=r"gave 340,351 bytes .*Nothing was kept"):
        fetch(pinned, store=empty, name="other")
    assert [model.name for model in empty.list()] == ["m"]
    assert not list(empty.folder.glob(".parts/other/*.part"))


def test_a_body_without_end_stops_when_the_disk_is_full(
    empty: ModelStore, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = iter([10**9, 10**9, 0])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(rooms)))
    site.script = [lambda *_: Response(repeat(bytes(2**16)))]
    with pytest.raises(LocalModelError, match="0 MB free"):
        fetch(site.pinned, store=empty)


def test_the_hub_gets_revision_and_token_and_another_host_does_not(empty: ModelStore, hub: Site) -> None:
    digest, source = hashlib.sha256(hub.data).hexdigest(), "hf://owner/repo@abc123/sub/Model-Q4.gguf"
    with HTTPServer() as elsewhere:
        storage = Site(elsewhere, hub.data)
        storage.script = [cut_at_half]
        hub.script = [status(302, Location=storage.url, X_Linked_Etag=f'"{digest}"')] * 2
        fetch(source, store=empty)
        assert [headers.get("Authorization") for _, headers in storage.requests] == [None, None]
        assert storage.requests[1][1]["Range"] == f"bytes={len(hub.data) // 2}-"
        hub.script = [status(302, Location=storage.url, X_Linked_Etag=f'"{"0" * 64}"')]
        with pytest.raises(LocalModelError, match=r"expected .* bytes with 0{64}"):
            fetch(source, store=empty, name="other")
    path, headers = hub.requests[0]
    assert (path, headers["Authorization"]) == ("/owner/repo/resolve/abc123/sub/Model-Q4.gguf", "Bearer hf_sentinel")
    assert [(model.name, model.source, model.sha256) for model in empty.list()] == [("model-q4", source, digest)]
    assert not list(empty.folder.glob(".parts/other/*.part"))


GATED = r"gated \(status 401\): accept its licence on https://huggingface.co/owner/repo, then set HF_TOKEN"


@pytest.mark.parametrize(
    ("setting", "source", "refusal", "message"),
    [
        ("HF_HUB_OFFLINE=1", "hf://owner/repo/m.gguf", {}, "HF_HUB_OFFLINE is set"),
        ("HF_ENDPOINT=nowhere", "hf://owner/repo/m.gguf", {}, "HF_ENDPOINT .*; expected a URL such as"),
        ("HF_TOKEN=", "hf://owner/m.gguf", {}, r"expected hf://owner/repo/file\.gguf"),
        ("HF_TOKEN=", "embedded/qwen3-4b", {}, "bytes, expected 2,497,280,256: the file has changed"),
        ("HF_TOKEN=hf_senti\nnel", "hf://owner/repo/m.gguf", {}, "the variable HF_TOKEN holds more than a key"),
        ("HF_TOKEN=hf_\udcff", "hf://owner/repo/m.gguf", {}, "the variable HF_TOKEN holds more than a key"),
        ("HF_TOKEN=hf_x", "hf://owner/repo@main/m.gguf", {401: "GatedRepo"}, GATED),
        ("HF_TOKEN=hf_x", "hf://owner/repo/m.gguf", {401: "RepoNotFound"}, "does not exist, or you may not read it"),
        ("HF_TOKEN=hf_x", "hf://owner/repo/m.gguf", {404: "EntryNotFound"}, "status 404: it does not exist"),
    ],
)
def test_what_is_not_fetched_from_the_hub_is_explained(
    empty: ModelStore, hub: Site, monkeypatch: pytest.MonkeyPatch, setting: str, source: str, refusal: Any, message: str
) -> None:
    monkeypatch.setenv(*setting.split("="))
    hub.script = [status(code, X_Error_Code=error) for code, error in refusal.items()]
    with pytest.raises(LocalModelError, match=message) as caught:
        fetch(source, store=empty)
    assert not re.search("hf_|senti", f"{caught.value!r} {caught.value.__cause__}")  # parts of the token
    assert empty.list() == ()


def test_a_pull_that_was_killed_continues_where_it_was(site: Site) -> None:
    half, stop = len(site.data) // 2, threading.Event()

    def stalls() -> Iterator[bytes]:
        yield site.data[:half]
        stop.wait(60)

    site.script = [lambda *_: Response(stalls(), 200, {"Content-Length": str(len(site.data)), "ETag": site.tag})]
    command = ["-c", "from testronaut_llm.cli import main; main()", "models", "pull", site.pinned]
    store = ModelStore()
    part = store.folder / ".parts" / "m" / "model.part"
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL) as killed:
        assert eventually(lambda: size_of(part) == half)
        killed.kill()
    stop.set()
    assert (size_of(part), store.list()) == (half, ())
    again = program(*command)
    assert again.returncode == 0, again.stderr
    assert [headers.get("Range") for _, headers in site.requests] == [None, f"bytes={half}-"]
    assert [model.sha256 for model in store.list()] == [site.pinned.rpartition("=")[2]]
