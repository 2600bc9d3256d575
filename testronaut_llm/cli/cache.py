"""`cache`: show the stored answers, delete them, carry them to another machine."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile, Yes, age, settings_of
from testronaut_llm.support.money import usd
from testronaut_llm.telemetry.redaction import Redactor

if TYPE_CHECKING:
    from testronaut_llm.cache.files import CacheFiles

group = typer.Typer(name="cache", no_args_is_help=True, help="Show, delete, export and import stored answers.")
Task = Annotated[str | None, typer.Option(help="Only the answers of this task.")]
OlderThan = Annotated[str | None, typer.Option(help="Only those older than this, such as 30d.")]
Force = Annotated[bool, typer.Option("--force", help="Also write answers that seem to hold a secret.")]


@group.command()
def stats(as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Show how many answers are stored, of which tasks, how large the store is, and what it saved this llm.yaml."""
    files = _files(config)
    with testronaut_llm.LLMManager(config) as llm:
        total = llm.spend().total
    stored = [(one.task, one.stored) for one in files.kept()]
    found = {
        "folder": str(files.folder),
        "answers": len(stored),
        "bytes": files.bytes,
        "oldest": _time(stored[0][1]) if stored else "none",
        "newest": _time(stored[-1][1]) if stored else "none",
        "hits": total.hits,
        "saved": usd(total.saved_by_cache),
        "tasks": dict(Counter(task for task, _ in stored).most_common()),
    }
    if as_json:
        screen.out_json(found)
    else:
        screen.facts("cache", found)


@group.command()
def clear(task: Task = None, older_than: OlderThan = None, yes: Yes = False, config: ConfigFile = None) -> None:
    """Delete stored answers: all, those of a task, or old ones."""
    before = None if older_than is None else time.time() - age(older_than)
    files = _files(config)
    if not yes:
        typer.confirm(f"Delete answers in {files.folder}?", abort=True, err=True)
    screen.note(f"answers deleted: {files.clear(task=task, before=before):,}")


@group.command()
def export(
    file: Annotated[Path, typer.Argument(help="The file to write, JSON lines.")],
    task: Task = None,
    force: Force = False,
    config: ConfigFile = None,
) -> None:
    """Write stored answers into a file that can be committed, so that a run in CI costs nothing."""
    written, left_out = _files(config).export(file, task=task, force=force)
    screen.note(f"answers written to {file}: {written:,}")
    if left_out:
        screen.note(f"left out, since they seem to hold a secret: {len(left_out):,} (--force writes them)")
    for one in left_out:
        begins = Redactor().redact(" ".join(str(one.value.get("text", "")).split()))[:60]
        screen.note(f"  {one.key[:12]}, task {one.task}, {_time(one.stored)}: {begins}")


@group.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file that `cache export` wrote.")], config: ConfigFile = None
) -> None:
    """Add the answers of an exported file to the store, all or none."""
    screen.note(f"answers imported from {file}: {_files(config).load(file):,}")


def _files(config: Path | None) -> CacheFiles:
    from testronaut_llm.cache.files import CacheFiles

    return CacheFiles(settings_of(config).cache)


def _time(stored: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(stored))
