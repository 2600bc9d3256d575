"""The application: its commands in the order that a newcomer needs them, and how errors leave it."""

from __future__ import annotations

import contextvars
import sys
import traceback
from typing import Annotated

import typer

from testronaut_llm import __version__
from testronaut_llm.cli import ask, cache, check, compare, config, demo, export, models, prices, route, spend
from testronaut_llm.cli.progress import bar
from testronaut_llm.cli.screen import FAILED, exit_code, note, out, out_json, say_error
from testronaut_llm.cli.streams import CannotPrintError, standard_streams
from testronaut_llm.errors import LLMError
from testronaut_llm.local.download import shown
from testronaut_llm.telemetry.redaction import Redactor

EPILOG = (
    "Exit codes: 0 answer, 1 models failed, 2 wrong usage or configuration, 3 budget.  "
    "Results go to stdout, all else to stderr."
)

app = typer.Typer(
    name="testronaut-llm",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would write its colours, and what a wrong option holds, past our streams
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        out(__version__)
        raise typer.Exit


@app.callback()
def every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Ask language models by task. One file, llm.yaml, says which model does which task."""


for command in (config.init, ask.run, route.route, compare.compare, check.check, demo.demo, config.trust):
    app.command()(command)
for module in (models, spend, config, prices, cache, export):
    app.add_typer(module.group)


def main() -> None:
    """Runs the command line; every error is one message and an exit code."""
    with standard_streams():
        try:
            sys.exit(_ended())
        except CannotPrintError as error:
            if not error.reader_left:
                note(f"error: {'; '.join((str(error), *getattr(error, '__notes__', ())))}")
            sys.exit(0 if error.reader_left else FAILED)


def _ended() -> int:
    context = contextvars.copy_context()
    context.run(shown.set, bar)  # for calls that wait for a model to be pulled
    try:
        context.run(app)
    except LLMError as error:
        if "--json" in sys.argv:
            out_json({"error": error})
        say_error(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return 130
    except CannotPrintError:
        raise
    except Exception as error:  # noqa: BLE001 - a traceback would show whatever the error quotes
        *_, last = traceback.extract_tb(error.__traceback__)
        where = f"{type(error).__name__} in {last.filename}:{last.lineno}"
        note(f"error (internal): {Redactor().redact(str(error))} ({where}); this is a bug of testronaut-llm")
        for line in getattr(error, "__notes__", ()):
            note(line)
        return FAILED
    return 0
