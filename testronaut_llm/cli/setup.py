"""`init`: a commented llm.yaml for what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from testronaut_llm.cli import screen
from testronaut_llm.errors import ConfigError, LLMError


def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("llm.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented llm.yaml, and say which of its models are ready on this machine."""
    from testronaut_llm.atomic_file import write_atomically
    from testronaut_llm.config_file import load_config
    from testronaut_llm.config_schema import schema_line
    from testronaut_llm.provider_registry import readiness
    from testronaut_llm.trust import trust

    if file.exists() and not force:
        raise ConfigError(f"{file} is there already; edit it, or replace it with --force", file=str(file))
    packaged = Path(__file__).resolve().parents[1] / "llm.yaml"
    states = [
        f"{alias} ({model.model}): {'ready' if found.ready else f'{found.missing}; {found.mend}'}"
        for alias, model in load_config(packaged).models.items()
        for found in (readiness(model),)
    ]
    _, _, rest = packaged.read_text("utf-8").partition("\n")
    here = "".join(f"#   {line}\n" for line in (*states, *_of_ollama()))
    machine = f"# On this machine, when this file was written (`testronaut-llm check` says how it is now):\n{here}"
    try:
        write_atomically(file, f"{schema_line()}\n#\n{machine}{rest}", mode=0o644)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}", file=str(file)) from None
    load_config(file)
    trust(file)
    screen.note(f"wrote {file}; on this machine:")
    screen.note(here.replace("#", " ").rstrip())
    screen.note('next: testronaut-llm check, then testronaut-llm run cli_analysis "Explain `ls -la`"')


def _of_ollama() -> list[str]:
    """The models that a running Ollama has, each as the row that a file would name it by."""
    from testronaut_llm.local.ollama_provider import OllamaServer

    try:
        with OllamaServer.of() as server:
            names = [one.name for one in server.models()]
    except LLMError:
        return []
    return [f"Ollama has {name}; a row for it: my_model: {{model: 'ollama/{name}', quality: 5}}" for name in names]
