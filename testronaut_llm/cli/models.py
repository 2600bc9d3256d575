"""`models`: the local ones."""

from __future__ import annotations

from typing import Annotated

import typer

from testronaut_llm.cli import screen
from testronaut_llm.cli.options import AsJson

group = typer.Typer(no_args_is_help=True, help="List, fetch and remove local models.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(group, name="models")


@group.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the embedded models that are stored, and those of the catalogue."""
    from testronaut_llm.local.catalogue import catalogue
    from testronaut_llm.local.model_store import ModelStore

    stored = {one.name: one for one in ModelStore().list()}
    if as_json:
        screen.out_json({"stored": list(stored.values()), "catalogue": catalogue()})
        return
    rows = [(f"embedded/{one.name}", f"{one.size:,}", "stored", one.source) for one in stored.values()]
    rows += [
        (f"embedded/{name}", f"{entry.size or 0:,}", "not stored", entry.source)
        for name, entry in catalogue().items()
        if name not in stored
    ]
    screen.table("local models", ("model", "bytes", "state", "source"), rows)


@group.command("pull")
def pull(model: Annotated[str, typer.Argument(help="Such as embedded/smollm2-135m or ollama/qwen3:8b.")]) -> None:
    """Fetch a model, with a progress bar; what is verified gets its name, nothing else does."""
    from testronaut_llm.cli.progress import fetching

    fetching(model)


@group.command("remove")
def remove(model: Annotated[str, typer.Argument(help="Such as embedded/smollm2-135m.")]) -> None:
    """Remove an embedded model from the store."""
    from testronaut_llm.errors import LocalModelError
    from testronaut_llm.local.model_store import ModelStore

    if not ModelStore().remove(model.removeprefix("embedded/")):
        raise LocalModelError(f"{model} is not stored; see: testronaut-llm models list")
    screen.note(f"removed {model}")
