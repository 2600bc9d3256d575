"""The application: its commands in the order that a newcomer needs them, and how errors leave it."""

from __future__ import annotations

import contextvars
import sys
from typing import Annotated

import typer

from testronaut_llm import __version__
from testronaut_llm.cli import ask, cache, check, compare, config, demo, export, models, prices, route, spend
from testronaut_llm.cli.progress import bar
from testronaut_llm.cli.screen import USAGE, exit_code, out, out_json, say_error
from testronaut_llm.errors import LLMError
from testronaut_llm.local.on_demand import shown

EPILOG = (
    "Exit codes: 0 answer, 1 models failed, 2 wrong usage or configuration, 3 budget.  "
    "Results go to stdout, all else to stderr."
)

app = typer.Typer(
    name="testronaut-llm",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
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
    """Runs the command line; every error of ours is one message and an exit code."""
    context = contextvars.copy_context()
    context.run(shown.set, bar)  # for calls that wait for a model to be pulled
    try:
        context.run(app)
    except LLMError as error:
        if "--json" in sys.argv:
            out_json({"error": error})
        say_error(error)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except UnicodeError as error:
        say_error(LLMError(f"the input is no UTF-8 text: {error}"))
        sys.exit(USAGE)
