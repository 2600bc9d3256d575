"""`cache`: what is kept, forgetting it, and carrying it to another machine."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile, age
from testronaut_llm.support.money import usd
from testronaut_llm.telemetry.redaction import Redactor

if TYPE_CHECKING:
    from testronaut_llm.cache.files import CacheFiles

group = typer.Typer(
    name="cache", no_args_is_help=True, help="Look at the kept answers, forget them, carry them elsewhere."
)
Task = Annotated[str | None, typer.Option(help="Only the answers of this task.")]


@group.command("stats")
def stats(as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Show how many answers are kept, of which tasks, how large the store is, and what it saved this llm.yaml."""
    from testronaut_llm.cache.files import CacheFiles

    with testronaut_llm.LLMManager(config) as llm:
        files, total = CacheFiles(llm.config.cache), llm.spend().total
    tasks: Counter[str | None] = Counter()
    oldest = newest = None
    for one in files.kept():
        tasks[one.task] += 1
        oldest, newest = oldest or one.stored, one.stored
    found: dict[str, Any] = {
        "folder": str(files.folder),
        "answers": tasks.total(),
        "bytes": files.bytes,
        "oldest": _day(oldest),
        "newest": _day(newest),
        "hits": total.hits,
        "saved": usd(total.saved_by_cache),
        "tasks": dict(tasks.most_common()),
    }
    if as_json:
        screen.out_json(found)
        return
    rows = [(name, str(value)) for name, value in found.items() if name != "tasks" and value is not None]
    screen.table("cache", ("what", "value"), [*rows, *((f"task {name}", str(n)) for name, n in tasks.most_common())])


@group.command("clear")
def clear(
    task: Task = None,
    older_than: Annotated[str | None, typer.Option(help="Only those older than this, such as 30d.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = None,
) -> None:
    """Forget kept answers: all, those of a task, or old ones."""
    before = None if older_than is None else time.time() - age(older_than)
    files = _files(config)
    if not yes:
        typer.confirm(f"Forget answers in {files.folder}?", abort=True, err=True)
    screen.note(f"answers forgotten: {files.clear(task=task, before=before):,}")


@group.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="The file to write, JSON lines.")],
    task: Task = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also write those that look as if they held a secret.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Write kept answers into a file that can be committed, so that a run in CI costs nothing."""
    written, left_out = _files(config).export(file, task=task, force=force)
    screen.note(f"answers written to {file}: {written:,}")
    if left_out:
        screen.note(f"left out, since they look as if they held a secret: {len(left_out):,} (--force writes them)")
    for one in left_out:
        begins = Redactor().redact(" ".join(str(one.value.get("text", "")).split()))[:60]
        screen.note(f"  {one.key[:12]}, task {one.task}, {_day(one.stored)}: {begins}")


@group.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file that `cache export` wrote.")], config: ConfigFile = None
) -> None:
    """Take the answers of such a file in, all or none."""
    screen.note(f"answers taken from {file}: {_files(config).load(file):,}")


def _files(config: Path | None) -> CacheFiles:
    from testronaut_llm.cache.files import CacheFiles
    from testronaut_llm.config.source import ConfigSource

    return CacheFiles(ConfigSource.find(config).current().cache)


def _day(stored: float | None) -> str | None:
    return None if stored is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(stored))
