"""The folder of models, its index, and the facts in a GGUF file."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny_model
from fixtures_local import TINY, peak_memory, stored
from manager_kit import Run

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.download import file_lock
from testronaut_llm.local.machine import GgufHeader, read_header
from testronaut_llm.local.model_store import ModelStore, StoredModel

DAY = 86400


def test_what_is_added_is_found_by_others_until_it_is_removed(store: ModelStore, tiny_gguf: Path) -> None:
    other = ModelStore(store.folder)
    found = other.get(TINY)
    assert (found.source, found.size, found.added[-6:]) == ("test", tiny_gguf.stat().st_size, "+00:00")
    assert other.list() == (found,)
    store.touch(TINY)
    store.touch("other")
    (model,) = other.list()
    assert model.last_used >= model.added
    store.path(TINY).unlink()
    assert (other.get(TINY), other.list()) == (None, ())  # a row of the index without its file does not count
    assert [store.remove(TINY), store.remove(TINY)] == [True, False]


def test_reading_the_default_folder_creates_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(tmp_path / "home"))
    store = ModelStore()
    assert (store.folder, store.list(), store.get(TINY)) == (tmp_path / "home/data/models", (), None)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("text", ["", "[" * 99_999, "[]", '{"models": 3}', '{"models": {"../evil": {"source": "x"}}}'])
def test_a_broken_index_reads_as_an_empty_one_and_the_next_change_fixes_it(store: ModelStore, text: str) -> None:
    (store.folder / "index.json").write_text(text)
    assert store.list() == ()
    stored(store, store.path(TINY), "again")
    assert [model.name for model in store.list()] == ["again"]


def test_concurrent_changes_are_all_kept(store: ModelStore, tiny_gguf: Path) -> None:
    """Threads (and, by the same lock, processes) do not overwrite each other's rows."""
    names = [f"copy-{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: stored(store, tiny_gguf, name), names))
    assert [model.name for model in store.list()] == [*names, TINY]


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "a:b", ".a", "a.", "nul.gguf", "é", "x" * 65])
def test_a_name_that_some_platform_refuses_is_refused_everywhere(store: ModelStore, name: str) -> None:
    """Paths, upper case (two names, one file on a Mac) and device names of Windows are refused."""
    with pytest.raises(LocalModelError, match="cannot be the name of an embedded model"):
        store.get(name)
    with pytest.raises(LocalModelError):
        store.add(store.folder / "x", StoredModel(name=name, source="", sha256="", size=0))


@pytest.fixture
def full(tmp_path: Path, tiny_gguf: Path) -> ModelStore:
    """A store with a model in use, an old one, a broken download and a file without an entry."""
    store = stored(stored(ModelStore(tmp_path / "data" / "models"), tiny_gguf), tiny_gguf, "old")
    index = store.folder / "index.json"
    rows = json.loads(index.read_text())
    rows["models"]["old"] |= {"added": "2020-01-01T00:00:00+00:00", "last_used": "2020-02-02T00:00:00+00:00"}
    index.write_text(json.dumps(rows))
    part = store.folder / ".parts" / "broken" / "model.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    (store.folder / "lost.gguf").write_bytes(b"whole")
    for file in (part, store.folder / "lost.gguf"):
        os.utime(file, (time.time() - 40 * DAY,) * 2)
    return store


@pytest.mark.parametrize("name", ["old", "broken", "lost"])
def test_all_that_is_left_of_a_model_is_removed_unless_it_is_being_pulled(full: ModelStore, name: str) -> None:
    with file_lock(full.pull_lock(name)), pytest.raises(LocalModelError, match=f"embedded/{name} is being pulled"):
        full.remove(name)
    assert full.remove(name)
    assert name not in full.unused(0)


def test_the_command_asks_before_it_removes(
    full: ModelStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run
) -> None:
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(tmp_path))
    arguments, before = ("models", "remove", "--older-than", "30d"), full.unused(0)
    assert full.unused(30 * DAY) == {"broken": 4, "lost": 5, "old": full.path("old").stat().st_size}
    code, out, _ = run(*arguments, stdin="n\n")
    assert (code, "old\t" in out) == (1, True)
    assert run(*arguments, "m")[0] == 2
    assert full.unused(0) == before
    full.touch("old")
    code, out, err = run(*arguments, "--yes")
    assert (code, "old\t" in out, "removed broken" in err) == (0, False, True)
    assert sorted(full.unused(0)) == ["old", TINY]
    assert "nothing in" in run(*arguments)[2]


ONE: dict[str, tiny_model.Tensor] = {"w": ((64, 1), array("f", [0.0] * 64))}
LLAMA: dict[str, object] = {
    "general.architecture": "llama", "llama.block_count": 2, "llama.context_length": 512, "llama.embedding_length": 64,
    "llama.attention.head_count": 4, "tokenizer.ggml.tokens": ["a", "b"],
}  # fmt: skip
BERT: dict[str, object] = {
    "general.architecture": "bert", "bert.block_count": 3, "bert.context_length": 512, "bert.embedding_length": 64,
    "bert.attention.head_count": 8, "bert.attention.head_count_kv": [8, 4, 0], "bert.attention.key_length": 10,
    "bert.attention.value_length": 6, "bert.pooling_type": 2, "bert.attention.causal": False,
    "bert.attention.layer_norm_epsilon": 0.5, "tokenizer.ggml.tokens": ["a", "b"],
}  # fmt: skip
BIG = 1 << 62


def header_of(path: Path, metadata: dict[str, object]) -> GgufHeader:
    path.write_bytes(tiny_model._gguf(metadata, ONE))
    return read_header(path)


def pair(key: str, kind: int, form: str, *values: int | float) -> bytes:
    return tiny_model._string(key) + struct.pack("<I", kind) + struct.pack(form, *values)


def header(*pairs: bytes, count: int | None = None) -> bytes:
    """Returns a header with LLAMA's pairs and these, whose counts may be wrong."""
    known = [tiny_model._string(key) + tiny_model._typed(value) for key, value in LLAMA.items()]
    number = len(known) + len(pairs) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", 3, 1, number) + b"".join([*known, *pairs])


def test_memory_and_context_are_in_the_header(tiny_gguf: Path, tmp_path: Path) -> None:
    size = tiny_gguf.stat().st_size
    kv_bytes = 2 * 2 * 4 * (16 + 16)
    tiny = GgufHeader(size=size, context=8192, embedding=64, vocabulary=634, kv_bytes=kv_bytes)
    assert read_header(tiny_gguf) == tiny
    bert = header_of(tmp_path / "m.gguf", BERT)
    assert (bert.kv_bytes, bert.pooling, bert.vocabulary, bert.has_template) == (2 * 16 * 12, 2, 2, False)
    hybrid = LLAMA | {"llama.attention.head_count": [4, 0], "llama.attention.head_count_kv": [2, 0], "split.count": 1}
    assert header_of(tmp_path / "m.gguf", hybrid).kv_bytes == 2 * (16 + 16) * 2
    without_heads = {key.replace("llama", "mamba"): value for key, value in LLAMA.items() if "head" not in key}
    assert header_of(tmp_path / "m.gguf", without_heads | {"general.architecture": "mamba"}).kv_bytes == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "begins with b'', expected b'GGUF'"),
        (b"<html>not found</html>" * 9, "begins with b'<htm', .*/resolve/ in place of /blob/, or hf://"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "GGUF version 50331648, expected 2 or 3, little-endian"),
        (tiny_model._gguf(LLAMA | {"split.count": 3}, ONE), "a part of a model, or no weights; take the model in one"),
        (tiny_model._gguf(LLAMA, {}), "a part of a model, or no weights"),
        (tiny_model._gguf({"general.architecture": "clip"}, ONE), "'clip.block_count' is missing"),
        (header()[:100], "damaged or cut"),
        (header(count=BIG), "damaged or cut"),
        (header(pair("x", 77, "<I", 1)), "damaged or cut"),
        (header(pair("x", 9, "<IQ", 8, BIG) + bytes(99)), "damaged or cut"),
        (header(pair("x", 9, "<IQ", 4, BIG) + bytes(99)), "damaged or cut"),
        (header(pair("x", 8, "<Q", BIG) + bytes(99)), "damaged or cut"),
        (header(pair("llama.block_count", 4, "<I", 300_000_000)), "block_count' is 300000000, .* 1,024"),
        (header(pair("llama.block_count", 5, "<i", -1)), "block_count' is -1"),
        (header(pair("llama.block_count", 7, "<?", 1)), "block_count' is True"),
        (header(pair("llama.attention.head_count_kv", 9, "<IQi", 5, 1, -4)), "head_count_kv' is -4"),
        (header(pair("llama.embedding_length", 10, "<Q", BIG)), "embedding_length' is 4611"),
        (header(pair("llama.context_length", 10, "<Q", BIG)), "context_length' is 4611"),
        (header(pair("llama.pooling_type", 4, "<I", 77)), "pooling_type' is 77"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    (file := tmp_path / "broken.gguf").write_bytes(data)
    with pytest.raises(LocalModelError, match=reason) as caught:
        read_header(file)
    assert str(caught.value).startswith(f"embedded/broken ({file})")
    assert "models pull embedded/broken" in str(caught.value)
    with pytest.raises(LocalModelError, match=rf"^https://h/m\.gguf .*{reason}.*Nothing was kept"):
        read_header(file, source="https://h/m.gguf")


@pytest.mark.parametrize(
    "lie",
    [
        pair("x", 9, "<IQ", 0, 90_000_000),
        pair("llama.attention.head_count", 9, "<IQ", 4, 20_000_000),
        pair("x", 8, "<Q", 90_000_000),
        pair("x", 9, "<IQQ", 8, 1, 90_000_000),
    ],
)
def test_a_header_never_takes_more_memory_than_a_few_megabytes(tmp_path: Path, lie: bytes) -> None:
    file = tmp_path / "bomb.gguf"
    with file.open("wb") as out:
        out.write(header(lie))
        out.truncate(100_000_000)
    with peak_memory() as peak, contextlib.suppress(LocalModelError):
        read_header(file)
    assert peak[0] < 4_000_000
