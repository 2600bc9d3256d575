"""Trust belongs to one path and one text."""

from __future__ import annotations

from pathlib import Path

import pytest

from testronaut_llm.config.source import load_config
from testronaut_llm.config.trust import is_trusted, record_of, trust
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import data_dir

TEXT = "tasks: {default: {models: a/b}}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration file."""
    file = tmp_path / "llm.yaml"
    file.write_text(TEXT)
    return file


def test_a_file_is_trusted_after_trust_and_not_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file found upwards becomes trusted by the command alone."""
    monkeypatch.chdir(path.parent)
    assert load_config().trusted is False
    assert trust(path) == path.resolve()
    assert load_config().trusted is True


def test_an_edit_ends_the_trust(path: Path) -> None:
    """A pull of the repository may have changed what was looked at."""
    trust(path)
    assert is_trusted(path, TEXT)
    assert not is_trusted(path, TEXT + "# one more line\n")


def test_trust_does_not_travel_with_the_text(path: Path, tmp_path: Path) -> None:
    """The same text elsewhere, beside other files, is another file."""
    trust(path)
    other = tmp_path / "other.yaml"
    other.write_text(TEXT)
    assert not is_trusted(other, TEXT)
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    assert is_trusted(link, TEXT), "a link to the file is the file"


def test_the_record_is_private(path: Path) -> None:
    """File 0600, folder 0700, under the data folder."""
    trust(path)
    record = record_of(path)
    assert record.is_relative_to(data_dir())
    assert (record.stat().st_mode & 0o777, record.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"path": "x", "sha256": "y"}'])
def test_a_damaged_record_trusts_nothing(path: Path, damage: bytes) -> None:
    """Doubt means no."""
    trust(path)
    record_of(path).write_bytes(damage)
    assert not is_trusted(path, TEXT)


def test_what_cannot_be_read_or_recorded_is_a_config_error(path: Path, tmp_path: Path) -> None:
    """A missing file, bytes that are no text, a folder that cannot be made."""
    with pytest.raises(ConfigError, match=r"cannot read .*missing\.yaml"):
        trust(tmp_path / "missing.yaml")
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        trust(path)
    path.write_text(TEXT)
    data_dir().mkdir(parents=True)
    (data_dir() / "trusted").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot trust"):
        trust(path)
