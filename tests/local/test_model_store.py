"""The folder of models and its index."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from fixtures_local import TINY, stored

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.model_store import ModelStore, StoredModel, checked_name


def test_what_is_added_is_found_by_others(store: ModelStore, tiny_gguf: Path) -> None:
    """File and facts are there for every store of the folder, and the source file is gone."""
    other = ModelStore(store.folder)
    found = other.get(TINY)
    assert found is not None
    assert other.find(TINY) == store.folder / "tiny-random.gguf"
    assert (found.source, found.size, other.digest(TINY)) == ("test", tiny_gguf.stat().st_size, found.sha256)
    assert found.added.endswith("+00:00")
    assert other.list() == (found,)
    assert sorted(file.name for file in store.folder.iterdir() if not file.name.startswith(".")) == [
        "index.json",
        "tiny-random.gguf",
    ]


def test_the_default_folder_is_the_users_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TESTRONAUT_LLM_HOME moves the models with everything else, and looking creates nothing."""
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(tmp_path / "home"))
    store = ModelStore()
    assert (store.folder, store.list(), store.find(TINY)) == (tmp_path / "home/data/models", (), None)
    assert not (tmp_path / "home").exists()


def test_what_is_not_there_is_none(store: ModelStore) -> None:
    """An unknown name, and one whose file was deleted by hand, are not found."""
    store.path(TINY).unlink()
    assert (store.find(TINY), store.digest(TINY), store.list()) == (None, None, ())
    assert (store.find("other"), store.digest("other")) == (None, None)


def test_removing_deletes_the_file_and_forgets_it(store: ModelStore) -> None:
    """The second time there is nothing left to remove."""
    file = store.path(TINY)
    assert [store.remove(TINY), store.remove(TINY)] == [True, False]
    assert not file.exists()
    assert ModelStore(store.folder).list() == ()


def test_use_is_noted(store: ModelStore) -> None:
    """The index says when a model was last used; an unknown name changes nothing."""
    store.touch(TINY)
    store.touch("other")
    (model,) = store.list()
    assert model.last_used >= model.added


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"models": {"tiny-random": {}}}', '{"models": {"../evil": {"source": "x"}}}', '{"models": 3}'],
)
def test_a_broken_index_reads_as_an_empty_one_and_is_mended_by_the_next_change(store: ModelStore, text: str) -> None:
    """Nobody has to delete a file by hand before the program works again."""
    (store.folder / "index.json").write_text(text)
    assert store.list() == ()
    stored(store, store.path(TINY), "again")
    assert [model.name for model in store.list()] == ["again"]


def test_facts_of_a_newer_version_are_ignored(store: ModelStore) -> None:
    """An index that knows more than this version still reads."""
    index = store.folder / "index.json"
    rows = json.loads(index.read_text())
    rows["models"][TINY]["colour"] = "blue"
    index.write_text(json.dumps(rows))
    assert [model.name for model in store.list()] == [TINY]


def test_changes_at_once_are_all_kept(store: ModelStore, tiny_gguf: Path) -> None:
    """Threads (and, by the same lock, processes) do not overwrite each other's rows."""
    threads = [threading.Thread(target=stored, args=(store, tiny_gguf, f"copy-{n}")) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [model.name for model in store.list()] == sorted([TINY, *(f"copy-{n}" for n in range(12))])


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-1.5b", "a", "a_b", "x" * 64])
def test_a_safe_name_is_kept(name: str) -> None:
    """Small letters, digits, dots, dashes and underscores make a file name anywhere."""
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "a\\b", "A", "a:b", "a b", ".a", "a.", "-a", "con", "nul.gguf", "com1", "é", "x" * 65]
)
def test_a_name_that_some_platform_refuses_is_refused_everywhere(store: ModelStore, name: str) -> None:
    """Paths, upper case (two names, one file on a Mac), device names of Windows: none of them gets in."""
    with pytest.raises(LocalModelError, match="cannot be the name of an embedded model"):
        store.find(name)
    with pytest.raises(LocalModelError):
        store.add(store.folder / "x", StoredModel(name=name, source="", sha256="", size=0))
