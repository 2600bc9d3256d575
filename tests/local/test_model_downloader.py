"""Fetching a model into the store, whatever its source."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from fixtures_local import TINY
from tiny_model import ROW

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import machine, model_downloader
from testronaut_llm.local.download import Progress, Report, Wanted, check_disk
from testronaut_llm.local.model_downloader import DEFAULT, catalogue, fetch
from testronaut_llm.local.model_store import ModelStore, checked_name, read_header


@pytest.fixture
def empty(tmp_path: Path) -> ModelStore:
    """A store without models."""
    return ModelStore(tmp_path / "models")


class Source:
    """A scheme that copies a file, and counts."""

    def __init__(self, file: Path) -> None:
        self.file, self.calls = file, 0

    def __call__(self, wanted: Wanted, folder: Path, report: Report) -> Path:
        self.calls += 1
        report(Progress(done=1, total=2))
        return Path(shutil.copy(self.file, folder / "copy"))


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path) -> Source:
    """`https://` gives the tiny model."""
    source = Source(tiny_gguf)
    monkeypatch.setitem(model_downloader.SCHEMES, "https", source)
    return source


@pytest.mark.usefixtures("tiny_offered")
def test_a_model_of_the_catalogue_is_fetched(empty: ModelStore) -> None:
    """By its name alone, with the digest and the licence that the catalogue names, and nothing is left behind."""
    model = fetch("embedded/tiny-random", store=empty)
    assert (model.name, model.sha256, model.license) == (TINY, catalogue()[TINY].sha256, "MIT")
    assert (model.context, model.size) == (8192, empty.path(TINY).stat().st_size)
    assert read_header(empty.path(TINY)).context == 8192
    assert list((empty.folder / ".parts").iterdir()) == []


def test_what_is_there_is_not_fetched_again(empty: ModelStore, source: Source) -> None:
    """A second pull is free; progress is told during the first."""
    seen: list[Progress] = []
    first = fetch("https://example.org/Some%20Model.gguf", store=empty, progress=seen.append)
    assert fetch("https://example.org/Some%20Model.gguf", store=empty) == first
    assert (source.calls, first.name, first.source) == (1, "some-20model", "https://example.org/Some%20Model.gguf")
    assert (seen[0].done, seen[0].total) == (1, 2)
    assert seen[-1].note == "checking"


def test_two_pulls_at_once_fetch_once(empty: ModelStore, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits, says so, and finds the model there."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Source):
        def __call__(self, wanted: Wanted, folder: Path, report: Report) -> Path:
            begun.set()
            go_on.wait(30)
            return super().__call__(wanted, folder, report)

    slow = Slow(tiny_gguf)
    monkeypatch.setitem(model_downloader.SCHEMES, "https", slow)
    first = threading.Thread(target=fetch, args=("https://h/m.gguf",), kwargs={"store": empty})
    first.start()
    assert begun.wait(30)

    def told(progress: Progress) -> None:
        notes.append(progress.note)
        go_on.set()

    notes: list[str] = []
    fetch("https://h/m.gguf", store=empty, progress=told)
    first.join()
    assert (slow.calls, notes) == (1, ["waiting for another pull"])


@pytest.mark.usefixtures("tiny_offered")
def test_a_lost_index_costs_no_second_download(empty: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is in place with the right digest is taken as it is."""
    fetch(TINY, store=empty)
    (empty.folder / "index.json").unlink()
    monkeypatch.setitem(model_downloader.SCHEMES, "made", None)
    assert fetch(TINY, store=empty).sha256 == catalogue()[TINY].sha256


def test_wrong_bytes_are_not_kept(empty: ModelStore, source: Source) -> None:
    """A file without the digest that was asked for never gets its name."""
    with pytest.raises(LocalModelError, match=r"340,352 bytes with the sha256 c4472.*expected .* with 0{64}"):
        fetch(f"https://example.org/m.gguf#sha256={'0' * 64}", store=empty)
    assert empty.list() == ()
    assert not list(empty.folder.glob("**/copy"))
    right = fetch(f"https://example.org/m.gguf#sha256={ROW['sha256']}", store=empty)
    assert right.name == "m"


def test_a_page_that_is_no_model_is_not_kept(empty: ModelStore, source: Source, tmp_path: Path) -> None:
    """A login page with status 200 is not stored as a GGUF."""
    source.file = tmp_path / "page.html"
    source.file.write_text("<html>Please log in</html>")
    with pytest.raises(LocalModelError, match="begins with b'<htm'"):
        fetch("https://example.org/m.gguf", store=empty)
    assert empty.list() == ()


def test_another_model_of_the_same_name_is_not_mistaken_for_it(empty: ModelStore, source: Source) -> None:
    """Same name, other source: refused, unless it is called something else."""
    fetch("https://example.org/model.gguf", store=empty)
    assert fetch("https://mirror.org/other.gguf", store=empty, name="third").name == "third"
    source.file = empty.folder.parent / "changed.gguf"
    source.file.write_bytes(empty.path("model").read_bytes() + b"\0")
    fetch("https://mirror.org/other.gguf", store=empty, name="fourth")
    with pytest.raises(
        LocalModelError, match=r"another model called 'fourth' is stored from https://mirror.org/other.gguf"
    ):
        fetch("https://example.org/model.gguf", store=empty, name="fourth")


@pytest.mark.parametrize("again", ["https://example.org/m.gguf", "https://mirror.org/m.gguf"])
def test_a_digest_that_is_given_always_counts(empty: ModelStore, source: Source, again: str) -> None:
    """Also where a model of that name is stored, from the same address or another; the right one is no second pull."""
    fetch("https://example.org/m.gguf", store=empty)
    assert fetch(f"{again}#sha256={ROW['sha256']}", store=empty).sha256 == ROW["sha256"]
    with pytest.raises(LocalModelError, match=r"another model called 'm' .* with the sha256 c4472.* expected 0{64}"):
        fetch(f"{again}#sha256={'0' * 64}", store=empty)
    assert source.calls == 1


def test_a_model_that_cannot_fit_into_memory_is_not_fetched(
    empty: ModelStore, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of its size is compared with this machine before the first byte."""
    monkeypatch.setattr(machine, "memory", lambda: 2_000_000_000)
    monkeypatch.setitem(model_downloader.SCHEMES, "hf", source)
    with pytest.raises(
        LocalModelError, match=r"hf://.*4B.* needs at least 2,382 MiB of memory, and this machine has 1,907"
    ):
        fetch("embedded/qwen3-4b", store=empty)
    assert source.calls == 0


def test_secrets_of_an_address_are_not_written_down(empty: ModelStore, source: Source) -> None:
    """User, password and signature stay out of the index and of messages."""
    url = "https://me:hunter2@example.org/m.gguf?sig=s3cret"
    assert fetch(url, store=empty).source == "https://example.org/m.gguf"
    assert "hunter2" not in (empty.folder / "index.json").read_text()
    with pytest.raises(LocalModelError) as caught:
        fetch(f"{url}#sha256={'0' * 64}", store=empty, name="other")
    assert "hunter2" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "embedded/smollm",
            r"no 'smollm' in the catalogue, did you mean 'smollm2-135m'\? It holds: smollm2-135m, qwen",
        ),
        ("zzz", r"no 'zzz' in the catalogue\. It holds"),
        ("ftp://example.org/m.gguf", r"'ftp://example.org/m.gguf' cannot be pulled: expected a catalogue name"),
        ("https://example.org/m.bin", "not a GGUF file"),
        ("https://example.org/m.gguf#sha256=abc", "expected #sha256= and 64 hex digits"),
        ("https://example.org/.gguf", "cannot be the name"),
    ],
)
def test_a_reference_that_cannot_be_pulled_says_what_can(empty: ModelStore, reference: str, message: str) -> None:
    """Each mistake has its own message, before anything is fetched."""
    with pytest.raises(LocalModelError, match=message):
        fetch(reference, store=empty)
    assert not empty.folder.exists()


def test_no_room_is_said_before_the_download(
    empty: ModelStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The message names what is free, what is needed, and how to move the folder."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000_000))
    with pytest.raises(LocalModelError, match=r"has 100 MB free, and 258 MB are needed.*TESTRONAUT_LLM_HOME"):
        fetch("embedded/smollm2-135m", store=empty)
    check_disk(tmp_path, 30_000_000)


def test_the_catalogue_is_whole() -> None:
    """Every row has a usable name and source, a size, a licence, and a real digest; the default is one of them."""
    entries = catalogue()
    assert DEFAULT in entries
    for name, entry in entries.items():
        assert checked_name(name) == entry.name
        assert Wanted(name=name, source=entry.source).scheme in model_downloader.SCHEMES
        assert entry.license
        assert entry.size
        assert entry.sha256
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.memory > entry.size
