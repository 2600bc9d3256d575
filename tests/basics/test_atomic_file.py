"""A file is replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testronaut_llm.support.paths import write_atomically


def test_a_new_file_is_private_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    """0600 for a new one; what the user chose stays."""
    path = tmp_path / "f"
    write_atomically(path, "one")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("one", 0o600)
    path.chmod(0o644)
    write_atomically(path, "two")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", 0o644)
    write_atomically(path, "three", mode=0o640)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    """The file that it leads to is replaced, in its own folder."""
    real = tmp_path / "real" / "f"
    real.parent.mkdir()
    real.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(real)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_line_ends_are_kept_as_given(tmp_path: Path) -> None:
    """No translation on any platform."""
    write_atomically(tmp_path / "f", "a\r\nb\né")
    assert (tmp_path / "f").read_bytes() == "a\r\nb\né".encode()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A full disk, or a crash of the step itself."""
    path = tmp_path / "f"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", fail) if step == "fsync" else (Path, "replace", fail)))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_goes_when_it_is_old(tmp_path: Path) -> None:
    """Another one may be at it just now."""
    old, new, other = (tmp_path / name for name in (".a.yaml.x1.tmp", ".a.yaml.x2.tmp", ".b.yaml.x3.tmp"))
    for one in (old, new, other):
        one.write_text("half")
    for one in (old, other):
        os.utime(one, (1, 1))
    write_atomically(tmp_path / "a.yaml", "whole")
    assert sorted(one.name for one in tmp_path.iterdir()) == [".a.yaml.x2.tmp", ".b.yaml.x3.tmp", "a.yaml"]
