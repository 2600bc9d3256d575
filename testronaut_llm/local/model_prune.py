"""What the store could do without: models that nobody used for long, and what is left of downloads that broke off."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from testronaut_llm.local.model_store import ModelStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispensable:
    """Something that could go: `size` is bytes on disk."""

    name: str
    why: str
    size: int
    path: Path
    stored: bool
    """Is it a model of the index, or a leftover?"""


def dispensable(store: ModelStore, age: float) -> tuple[Dispensable, ...]:
    """What was not touched for `age` seconds."""
    before = time.time() - age
    models = [
        Dispensable(
            name=one.name, why=f"not used since {used:.10}", size=one.size, path=store.path(one.name), stored=True
        )
        for one in store.list()
        for used in (one.last_used or one.added,)
        if _time(used) <= before
    ]
    return (*models, *_leftovers(store, before))


def remove(store: ModelStore, one: Dispensable) -> bool:
    """Deletes it, unless a download goes on with it at this moment; whether it is gone."""
    import filelock

    if one.stored:
        return store.remove(one.name)
    try:
        with store.locked(f"pull-{one.name}", timeout=0):
            if one.path.is_dir():
                shutil.rmtree(one.path, ignore_errors=True)
            else:
                one.path.unlink(missing_ok=True)
    except filelock.Timeout:
        return False
    return not one.path.exists()


def _leftovers(store: ModelStore, before: float) -> Iterator[Dispensable]:
    known = {store.path(one.name) for one in store.list()}
    for folder in sorted((store.folder / ".parts").glob("*")):
        files = [file for file in folder.rglob("*") if file.is_file()]
        if max((file.stat().st_mtime for file in (folder, *files)), default=0.0) <= before:
            size = sum(file.stat().st_size for file in files)
            why = "a download that broke off; pulled again, it goes on"
            yield Dispensable(name=folder.name, why=why, size=size, path=folder, stored=False)
    for file in sorted(set(store.folder.glob("*.gguf")) - known):
        if file.stat().st_mtime <= before:
            why = "a file that the index does not know; pulled again, it is used"
            yield Dispensable(name=file.stem, why=why, size=file.stat().st_size, path=file, stored=False)


def _time(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:  # of an index that was written by hand
        return 0.0
