"""The folder of models and its index."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from pathlib import Path

import pytest
from fixtures_local import TINY, stored

from testronaut_llm.cli import main
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.model_store import ModelStore, StoredModel


def test_what_is_added_is_found_by_others(store: ModelStore, tiny_gguf: Path) -> None:
    """File and facts are there for every store of the folder, and the source file is gone."""
    other = ModelStore(store.folder)
    found = other.get(TINY)
    assert found is not None
    assert other.path(TINY) == store.folder / "tiny-random.gguf"
    assert (found.source, found.size) == ("test", tiny_gguf.stat().st_size)
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
    assert (store.folder, store.list(), store.get(TINY)) == (tmp_path / "home/data/models", (), None)
    assert not (tmp_path / "home").exists()


def test_what_is_not_there_is_none(store: ModelStore) -> None:
    """An unknown name, and one whose file was deleted by hand, are not found."""
    store.path(TINY).unlink()
    assert (store.get(TINY), store.get("other"), store.list()) == (None, None, ())


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


def test_changes_at_once_are_all_kept(store: ModelStore, tiny_gguf: Path) -> None:
    """Threads (and, by the same lock, processes) do not overwrite each other's rows."""
    threads = [threading.Thread(target=stored, args=(store, tiny_gguf, f"copy-{n}")) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [model.name for model in store.list()] == sorted([TINY, *(f"copy-{n}" for n in range(12))])


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "a\\b", "A", "a:b", "a b", ".a", "a.", "-a", "con", "nul.gguf", "com1", "é", "x" * 65]
)
def test_a_name_that_some_platform_refuses_is_refused_everywhere(store: ModelStore, name: str) -> None:
    """Paths, upper case (two names, one file on a Mac), device names of Windows: none of them gets in."""
    with pytest.raises(LocalModelError, match="cannot be the name of an embedded model"):
        store.get(name)
    with pytest.raises(LocalModelError):
        store.add(store.folder / "x", StoredModel(name=name, source="", sha256="", size=0))


DAY = 86400


@pytest.fixture
def full(store: ModelStore, tiny_gguf: Path) -> ModelStore:
    """A store with a model in use, one that is old, a download that broke off and a file without an entry."""
    stored(store, tiny_gguf, "old")
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


def test_what_was_not_used_for_long_is_named(full: ModelStore) -> None:
    """By the last use, by the day it came, or by the date of its files."""
    assert full.unused(30 * DAY) == {"broken": 4, "lost": 5, "old": full.path("old").stat().st_size}
    assert [*full.unused(50 * DAY)] == ["old"]
    full.touch("old")
    assert [*full.unused(30 * DAY)] == ["broken", "lost"]
    assert TINY in full.unused(0)


@pytest.mark.parametrize("name", ["old", "broken", "lost"])
def test_all_that_is_left_of_a_model_is_removed_unless_it_is_being_pulled(full: ModelStore, name: str) -> None:
    """Its file, its entry and what came of its download."""
    with full.locked(f"pull-{name}"), pytest.raises(LocalModelError, match=f"embedded/{name} is being pulled"):
        full.remove(name)
    assert [full.remove(name), full.remove(name)] == [True, False]
    assert name not in full.unused(0)


@pytest.mark.parametrize(
    ("arguments", "code", "left"),
    [(("30d", "--yes"), 0, [TINY, "broken"]), (("30d",), 1, None), (("x",), 2, None), (("30d", "m"), 2, None)],
)
def test_the_command_asks_before_it_removes_what_is_unused(
    full: ModelStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    left: list[str] | None,
) -> None:
    """It says what would go and how much that is; a download that goes on is kept."""
    home = Path(os.environ["TESTRONAUT_LLM_HOME"]) / "data"
    home.mkdir(parents=True)
    (home / "models").symlink_to(full.folder)
    before = [*full.unused(0)]
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    monkeypatch.setattr("sys.argv", ["testronaut-llm", "models", "remove", "--older-than", *arguments])
    with full.locked("pull-broken"), pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == code
    assert sorted(full.unused(0)) == sorted(left or before)
    out, err = capsys.readouterr()
    if code == 0:
        assert "old\t" in out
        assert "kept broken: " in err
        monkeypatch.setattr("sys.argv", ["testronaut-llm", "models", "remove", "--older-than", "1000d"])
        with pytest.raises(SystemExit):
            main()
        assert "nothing in" in capsys.readouterr().err
