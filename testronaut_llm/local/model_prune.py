"""What the store could do without: models that nobody used for long, and what is left of downloads that broke off."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from testronaut_llm.local.model_store import ModelStore


class Dispensable(NamedTuple):
    """Something that could go: `size` is bytes on disk; a model of the index is `stored`, a leftover is not."""

    name: str
    why: str
    size: int
    path: Path
    stored: bool = False


def dispensable(store: ModelStore, age: float) -> tuple[Dispensable, ...]:
    """What was not touched for `age` seconds."""
    before = time.time() - age
    return tuple(one for one, touched in _all(store) if touched <= before)


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


def _all(store: ModelStore) -> Iterator[tuple[Dispensable, float]]:
    """Models and leftovers, and when each was touched last, in seconds since 1970."""
    models = store.list()
    for one in models:
        used, path = one.last_used or one.added, store.path(one.name)
        yield Dispensable(one.name, f"not used since {used:.10}", one.size, path, stored=True), _time(used)
    for folder in sorted((store.folder / ".parts").glob("*")):
        files = [file.stat() for file in folder.rglob("*") if file.is_file()]
        why, size = "a download that broke off; pulled again, it goes on", sum(file.st_size for file in files)
        yield Dispensable(folder.name, why, size, folder), max(file.st_mtime for file in (folder.stat(), *files))
    for file in sorted(set(store.folder.glob("*.gguf")) - {store.path(one.name) for one in models}):
        why, facts = "a file that the index does not know; pulled again, it is used", file.stat()
        yield Dispensable(file.stem, why, facts.st_size, file), facts.st_mtime


def _time(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:  # of an index that was written by hand
        return 0.0
