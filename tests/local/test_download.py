"""Downloads over HTTP from a server on this machine that misbehaves in every way that real ones do."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import download
from testronaut_llm.local.download import Progress
from testronaut_llm.local.model_downloader import fetch
from testronaut_llm.local.model_store import ModelStore

Handler = BaseHTTPRequestHandler
Behaviour = Callable[[Handler, "Site"], None]


@dataclass
class Site:
    """A web server with one file; `script` says how the next requests are answered, then it behaves well."""

    data: bytes
    tag: str = '"v1"'
    script: list[Behaviour] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    address: str = ""

    def url(self, path: str = "/m.gguf") -> str:
        return f"{self.address}{path}"


def well(handler: Handler, site: Site) -> None:
    span, unchanged = handler.headers.get("Range"), handler.headers.get("If-Range") in (None, site.tag)
    start = int(span.removeprefix("bytes=").rstrip("-")) if span and unchanged else 0
    if start and start >= len(site.data):
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(site.data)}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(site.data) - 1}/{len(site.data)}")
    handler.send_header("Content-Length", str(len(site.data) - start))
    handler.send_header("ETag", site.tag)
    handler.end_headers()
    handler.wfile.write(site.data[start:])


def cut_at_half(handler: Handler, site: Site) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(site.data)))
    handler.send_header("ETag", site.tag)
    handler.end_headers()
    handler.wfile.write(site.data[: len(site.data) // 2])
    handler.close_connection = True


def without_tag(handler: Handler, site: Site) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(site.data)
    handler.close_connection = True


def status(code: int, **headers: str) -> Behaviour:
    def answer(handler: Handler, site: Site) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], Site]]:
    """Starts sites on ports of their own."""
    servers: list[ThreadingHTTPServer] = []

    def start(data: bytes) -> Site:
        site = Site(data)

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.requests.append((self.path, dict(self.headers)))
                (site.script.pop(0) if site.script else well)(self, site)

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # clients hang up here
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        site.address = f"http://127.0.0.1:{server.server_port}"
        return site

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def site(serve: Callable[[bytes], Site], tiny_gguf: Path) -> Site:
    """A site with the tiny model."""
    return serve(tiny_gguf.read_bytes())


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """A store without models; nobody sleeps between tries."""
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    return ModelStore(tmp_path / "models")


@pytest.fixture
def hub(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site as the model hub."""
    monkeypatch.setenv("HF_ENDPOINT", f"{site.address}/")
    monkeypatch.setenv("HF_TOKEN", "hf_sentinel")
    return site


def test_a_dropped_connection_goes_on_where_it_was(empty: ModelStore, site: Site) -> None:
    """The second request asks for the missing half only, and only if the file is still the same."""
    site.script = [cut_at_half]
    seen: list[Progress] = []
    fetch(site.url(), store=empty, progress=seen.append)
    assert {progress.total for progress in seen if not progress.note} == {len(site.data)}
    asked = site.requests[1][1]
    assert (asked["Range"], asked["If-Range"]) == (f"bytes={len(site.data) // 2}-", '"v1"')
    assert empty.path("m").read_bytes() == site.data


def test_a_file_that_changed_meanwhile_is_fetched_anew(empty: ModelStore, site: Site) -> None:
    """Two halves of different files are never joined."""
    site.script = [cut_at_half]
    old, site.data = site.data, site.data[:-8] + b"\0" * 8

    def change(progress: Progress) -> None:
        if progress.note.startswith("retry"):
            site.tag = '"v2"'

    fetch(site.url(), store=empty, progress=change)
    assert empty.path("m").read_bytes() == site.data != old


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_strong_tag_nothing_is_continued(empty: ModelStore, site: Site, tag: str) -> None:
    """When the server cannot say that it is the same file, the download begins again."""
    site.tag, site.script = tag, [cut_at_half]
    fetch(site.url(), store=empty)
    assert "Range" not in site.requests[1][1]
    assert empty.path("m").read_bytes() == site.data


@pytest.mark.parametrize("kept", [0, 7], ids=["whole", "too long"])
def test_a_part_with_nothing_left_to_fetch_is_settled(empty: ModelStore, site: Site, kept: int) -> None:
    """416: a whole part is taken, one that is longer than the file is fetched anew."""
    parts = empty.folder / ".parts" / "m"
    parts.mkdir(parents=True)
    (parts / "model.part").write_bytes(site.data + b"\0" * kept)
    (parts / "model.json").write_text(f'{{"url": "{site.url()}", "tag": "\\"v1\\"", "sha256": ""}}')
    fetch(site.url(), store=empty)
    assert empty.path("m").read_bytes() == site.data
    assert len(site.requests) == (2 if kept else 1)


@pytest.mark.parametrize("note", ['{"url": "https://elsewhere/m.gguf", "tag": "\\"v1\\""}', "{", "[]"])
def test_a_part_of_unknown_origin_is_not_continued(empty: ModelStore, site: Site, note: str) -> None:
    """The same name from another place, or with a damaged note beside it, begins anew."""
    parts = empty.folder / ".parts" / "m"
    parts.mkdir(parents=True)
    (parts / "model.part").write_bytes(b"something else")
    (parts / "model.json").write_text(note)
    fetch(site.url(), store=empty)
    assert "Range" not in site.requests[0][1]
    assert empty.path("m").read_bytes() == site.data


def test_a_server_that_keeps_failing_is_given_up_and_the_part_kept(empty: ModelStore, site: Site) -> None:
    """After five tries without a step forward the error says what is kept and what else could help."""
    site.script = [cut_at_half, *[status(503)] * 9]
    with pytest.raises(LocalModelError, match=rf"fetched: status 503\. {len(site.data) // 2:,} bytes are kept"):
        fetch(site.url(), store=empty)
    assert len(site.requests) == 5
    site.script = []
    fetch(site.url(), store=empty)
    assert site.requests[-1][1]["Range"] == f"bytes={len(site.data) // 2}-"


def test_a_length_that_is_not_announced_is_fine(empty: ModelStore, site: Site) -> None:
    """Without Content-Length the file's own header and digest are what is checked."""
    site.script = [without_tag]
    fetch(f"{site.url()}#sha256={hashlib.sha256(site.data).hexdigest()}", store=empty)
    assert empty.path("m").read_bytes() == site.data


@pytest.mark.parametrize(
    ("digest", "message"),
    [(False, r"the server does not say how long the file is.*#sha256="), (True, "expected .* with")],
)
def test_a_cut_file_of_unknown_length_is_not_stored(empty: ModelStore, site: Site, digest: bool, message: str) -> None:
    """Without Content-Length only a digest can tell that a connection closed early, so one is required."""
    given = f"#sha256={hashlib.sha256(site.data).hexdigest()}" if digest else ""
    site.data = site.data[:-1]
    site.script = [without_tag] * 9
    with pytest.raises(LocalModelError, match=message) as caught:
        fetch(f"{site.url()}{given}", store=empty)
    assert str(caught.value).startswith(site.url())
    assert empty.list() == ()
    assert not list(empty.folder.glob(".parts/m/*.part"))


def test_a_body_without_end_stops_when_the_disk_is_full(
    empty: ModelStore, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no length is announced the room that is left is looked at while it comes."""
    rooms = iter([10**9, 10**9, 0])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(rooms)))

    def endless(handler: Handler, _: Site) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(2**16))

    site.script = [endless]
    with pytest.raises(LocalModelError, match="0 MB free"):
        fetch(f"{site.url()}#sha256={'0' * 64}", store=empty)


def test_what_comes_packed_is_refused(empty: ModelStore, site: Site) -> None:
    """Nobody asked for it, and no file could be continued from it."""
    site.script = [status(200, Content_Encoding="gzip, gzip")]
    with pytest.raises(LocalModelError, match=r"is compressed \(content-encoding 'gzip, gzip'\)"):
        fetch(site.url(), store=empty)
    assert site.requests[0][1]["Accept-Encoding"] == "identity"


def test_a_part_that_begins_too_late_leaves_no_hole(empty: ModelStore, site: Site) -> None:
    """An answer that begins elsewhere than was asked for is thrown away, and the file begun anew."""

    def too_late(handler: Handler, site: Site) -> None:
        start = len(site.data) - 10
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(site.data) - 1}/{len(site.data)}")
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(site.data[start:])

    site.script = [cut_at_half, too_late]
    fetch(site.url(), store=empty)
    assert empty.path("m").read_bytes() == site.data


@pytest.mark.parametrize("around", ["{}", " {}\r\n", "\ufeff{}\n"])
def test_the_hub_gets_revision_and_token_without_its_line_end(
    empty: ModelStore, hub: Site, monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    """HF_ENDPOINT says where, `@` pins the revision, HF_TOKEN opens gated models."""
    monkeypatch.setenv("HF_TOKEN", around.format("hf_sentinel"))
    fetch("hf://owner/repo@abc123/sub/Model-Q4.gguf", store=empty)
    path, headers = hub.requests[0]
    assert path == "/owner/repo/resolve/abc123/sub/Model-Q4.gguf"
    assert headers["Authorization"] == "Bearer hf_sentinel"
    assert [(m.name, m.source) for m in empty.list()] == [("model-q4", "hf://owner/repo@abc123/sub/Model-Q4.gguf")]


@pytest.mark.parametrize(
    "token", ["hf_senti\nnel", "hf_senti\x07nel", "hf_senti nel", "hf_sentinel\u00e9", "hf_\udcff"]
)
def test_a_token_that_no_header_takes_is_an_error_that_does_not_repeat_it(
    empty: ModelStore, hub: Site, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """It names the variable; nothing is sent, and nothing is tried again."""
    monkeypatch.setenv("HF_TOKEN", token)
    seen: list[Progress] = []
    with pytest.raises(LocalModelError, match="the variable HF_TOKEN holds more than a key") as caught:
        fetch("hf://owner/repo/m.gguf", store=empty, progress=seen.append)
    said = f"{caught.value!r} {caught.value.__cause__} {seen}"
    assert "hf_" not in said
    assert "senti" not in said
    assert hub.requests == []
    assert len(seen) <= 1


def test_a_clients_words_about_a_header_are_not_repeated(
    empty: ModelStore, hub: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They quote its value; what a server says goes without the token."""

    def refuse(client: httpx.Client, *_: object) -> bool:
        raise httpx.LocalProtocolError(f"Illegal header value b'{client.headers['authorization']}\\n'")

    monkeypatch.setattr(download, "_complete", refuse)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(LocalModelError, match="could not be fetched: LocalProtocolError") as caught:
        fetch("hf://owner/repo/m.gguf", store=empty)
    assert "sentinel" not in str(caught.value)


def test_the_token_is_not_sent_to_another_host(empty: ModelStore, hub: Site, serve: Callable[[bytes], Site]) -> None:
    """The hub redirects to where the file lies; the token stays with the hub, the range goes along."""
    store = serve(hub.data)
    store.script = [cut_at_half]
    digest = hashlib.sha256(hub.data).hexdigest()
    hub.script = [status(302, Location=store.url("/blob"), X_Linked_Etag=f'"{digest}"')] * 2
    fetch("hf://owner/repo/m.gguf", store=empty)
    assert [headers.get("Authorization") for _, headers in store.requests] == [None, None]
    assert store.requests[1][1]["Range"] == f"bytes={len(hub.data) // 2}-"
    assert [model.sha256 for model in empty.list()] == [digest]


def test_the_hub_s_own_digest_is_checked(empty: ModelStore, hub: Site, serve: Callable[[bytes], Site]) -> None:
    """A model that is in no catalogue is still compared with the sha256 that the hub names."""
    hub.script = [status(302, Location=serve(hub.data).url("/blob"), X_Linked_Etag=f'"{"0" * 64}"')]
    with pytest.raises(LocalModelError, match="is damaged: its sha256 is not 0000"):
        fetch("hf://owner/repo/m.gguf", store=empty)
    assert not list(empty.folder.glob(".parts/m/*.part"))


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (
            401,
            "GatedRepo",
            r"gated \(status 401\): accept its licence on https://huggingface.co/owner/repo, then set HF_",
        ),
        (403, "GatedRepo", "gated"),
        (401, "RepoNotFound", "there is no such repository"),
        (404, "RevisionNotFound", "there is no such revision"),
        (404, "EntryNotFound", "there is no such file"),
    ],
)
def test_what_the_hub_refuses_is_explained(empty: ModelStore, hub: Site, code: int, error: str, message: str) -> None:
    """Gated, misspelt repository, revision or file: each its own words, and never the token."""
    hub.script = [status(code, X_Error_Code=error)]
    with pytest.raises(LocalModelError, match=message) as caught:
        fetch("hf://owner/repo@main/m.gguf", store=empty)
    assert "hf_sentinel" not in str(caught.value)


def test_a_pull_that_was_killed_goes_on_where_it_was(
    serve: Callable[[bytes], Site], tiny_gguf: Path, tmp_path: Path
) -> None:
    """The whole command, killed with -9 in the middle and run again: the second asks for the rest alone."""
    site = serve(tiny_gguf.read_bytes())
    digest, half, stop = hashlib.sha256(site.data).hexdigest(), len(site.data) // 2, threading.Event()

    def stalls(handler: Handler, site: Site) -> None:
        cut_at_half(handler, site)
        handler.wfile.flush()
        stop.wait(60)

    site.script = [stalls]
    command = [sys.executable, "-c", "from testronaut_llm.cli import main; main()", "models", "pull"]
    command += [f"{site.url()}#sha256={digest}", "--name", "mine"]
    environment = {**os.environ, "TESTRONAUT_LLM_HOME": str(tmp_path)}
    part = tmp_path / "data" / "models" / ".parts" / "mine" / "model.part"
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == half) and time.monotonic() < end:
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    stop.set()
    assert part.stat().st_size == half
    assert ModelStore(tmp_path / "data" / "models").list() == ()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert again.returncode == 0, again.stderr
    assert site.requests[-1][1]["Range"] == f"bytes={half}-"
    assert len(site.requests) == 2
    stored = ModelStore(tmp_path / "data" / "models").get("mine")
    assert stored is not None
    assert stored.sha256 == digest


@pytest.mark.parametrize(
    ("variables", "reference", "message", "requests"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "hf://owner/repo/m.gguf", "HF_HUB_OFFLINE is set", 0),
        ({"TRANSFORMERS_OFFLINE": "on"}, "hf://owner/repo/m.gguf", "TRANSFORMERS_OFFLINE is set", 0),
        ({"HF_ENDPOINT": "nowhere"}, "hf://owner/repo/m.gguf", "HF_ENDPOINT .*; expected a URL such as", 0),
        ({}, "hf://owner/m.gguf", r"expected hf://owner/repo/file\.gguf", 0),
        ({}, "embedded/qwen3-4b", "bytes, expected 2,497,280,256: the file has changed", 1),
    ],
)
def test_what_is_not_fetched_from_the_hub(
    empty: ModelStore,
    hub: Site,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    reference: str,
    message: str,
    requests: int,
) -> None:
    """The hub's own switches are honoured, addresses are whole, and gigabytes of another file are not fetched."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LocalModelError, match=message):
        fetch(reference, store=empty)
    assert len(hub.requests) == requests
