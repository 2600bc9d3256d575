"""`models prune`: what was not used for long goes, what is used or being fetched stays."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import pytest
from fixtures_local import TINY, stored

from testronaut_llm.cli import main
from testronaut_llm.local.model_prune import dispensable, remove
from testronaut_llm.local.model_store import ModelStore

DAY = 86_400.0


@pytest.fixture
def full(store: ModelStore, tiny_gguf: Path) -> ModelStore:
    """Two models, of which one was used long ago; the part of a download; a file that the index lost."""
    stored(store, tiny_gguf, "old")
    index = store.folder / "index.json"
    rows = json.loads(index.read_text())
    rows["models"]["old"] |= {"added": "2020-01-01T00:00:00+00:00", "last_used": "2020-02-02T00:00:00+00:00"}
    index.write_text(json.dumps(rows))
    part = store.folder / ".parts" / "broken" / "model.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    lost = store.folder / "lost.gguf"
    lost.write_bytes(b"GGUF")
    long_ago = time.time() - 40 * DAY
    for one in (part, part.parent, lost):
        os.utime(one, (long_ago, long_ago))
    return store


def names(store: ModelStore, days: float) -> list[str]:
    return [one.name for one in dispensable(store, days * DAY)]


def test_only_what_was_not_touched_for_long_is_named(full: ModelStore) -> None:
    """By the last use, else by the day it came."""
    assert names(full, 30) == ["old", "broken", "lost"]
    assert names(full, 50) == ["old"]
    assert names(full, 50_000) == []
    full.touch("old")
    assert names(full, 30) == ["broken", "lost"]
    assert TINY in names(full, 0)


def test_what_is_named_goes_and_nothing_else(full: ModelStore) -> None:
    """Files, folders and rows of the index."""
    assert all(remove(full, one) for one in dispensable(full, 30 * DAY))
    assert [one.name for one in full.list()] == [TINY]
    assert full.find(TINY)
    assert names(full, 30) == []
    assert not (full.folder / "lost.gguf").exists()


def test_a_download_that_goes_on_is_let_be(full: ModelStore) -> None:
    """Its lock is held."""
    with full.locked("pull-broken"):
        broken = next(one for one in dispensable(full, 30 * DAY) if one.name == "broken")
        assert not remove(full, broken)
    assert broken.path.is_dir()
    assert remove(full, broken)


def test_a_day_that_nobody_can_read_counts_as_long_ago(full: ModelStore) -> None:
    """An index that was written by hand."""
    index = full.folder / "index.json"
    index.write_text(index.read_text().replace("2020-02-02T00:00:00+00:00", "lately"))
    assert "old" in names(full, 10_000)


@pytest.mark.parametrize(
    ("arguments", "code", "left"), [(("--yes",), 0, []), ((), 1, ["old"]), (("--older-than", "x"), 2, ["old"])]
)
def test_the_command_asks_before_it_removes(
    full: ModelStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], code: int, left: list[str],
) -> None:  # fmt: skip
    """And says what goes and how much that is."""
    home = Path(os.environ["TESTRONAUT_LLM_HOME"]) / "data"
    home.mkdir(parents=True)
    (home / "models").symlink_to(full.folder)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    monkeypatch.setattr("sys.argv", ["testronaut-llm", "models", "prune", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == code
    out, err = capsys.readouterr()
    assert [one.name for one in full.list() if one.name != TINY] == left
    if code == 0:
        assert "old\t" in out
        assert "removed: 3" in err
        with pytest.raises(SystemExit):
            main()
        assert "nothing in" in capsys.readouterr().err
