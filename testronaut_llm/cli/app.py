"""The Typer application: its commands, and the messages and exit codes of errors."""

import contextvars
import sys
import traceback
import warnings
from typing import Annotated

import typer
from typer.main import get_command

from testronaut_llm import __version__
from testronaut_llm.cli import ask, check, config, models, screen, spend
from testronaut_llm.cli.screen import progress
from testronaut_llm.errors import LLMError, NoReadyModelError
from testronaut_llm.local.download import reporter
from testronaut_llm.telemetry.redaction import Redactor

EPILOG = (
    "Exit codes: 0 answer, 1 models failed, 2 wrong usage or configuration, 3 budget, 4 refused by a content filter, "
    "5 provider unreachable.  "
    "Results go to stdout, all else to stderr."
)

app = typer.Typer(
    name="testronaut-llm",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich would bypass our streams and print an unknown option unescaped
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        screen.out(__version__)
        raise typer.Exit


@app.callback()
def every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Ask language models by task. One file, llm.yaml, assigns models to tasks."""


for command in (config.init, ask.run, ask.classify, ask.route, ask.compare, check.check, config.demo, config.trust):
    app.command()(command)
for group in (models.group, spend.group, config.group, spend.prices, spend.cache, config.export):
    app.add_typer(group)


def main() -> None:
    """Runs the command line. Every error becomes a message and an exit code."""
    with screen.standard_streams():
        try:
            code = _run()
        except screen.CannotPrintError as error:
            code = 0 if error.reader_left else screen.FAILED
            if code:
                screen.note("; ".join((f"error: {error}", *getattr(error, "__notes__", ()))))
        sys.exit(code)


def _run() -> int:
    # LiteLLM leaves a coroutine behind if Ctrl-C comes just before it sends.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    context = contextvars.copy_context()
    context.run(reporter.set, progress)  # of what a call waits for: a model's answer, load or download
    try:
        context.run(app)
    except KeyboardInterrupt:
        return screen.INTERRUPTED
    except screen.CannotPrintError:
        raise
    except LLMError as error:
        if "--json" in sys.argv:
            screen.out_json({"error": error})
        lines = [f"error ({error.code}): {error}", *getattr(error, "__notes__", ())]
        if isinstance(error, NoReadyModelError) and (steps := _without_key())[0] not in lines[0]:
            lines.append("  without any key: " + "\n  then ".join(steps))
        screen.note("\n".join(lines))
        return screen.code_of(error)
    except Exception as error:  # noqa: BLE001 - a traceback would show whatever the error quotes
        *_, last = traceback.extract_tb(error.__traceback__)
        where = f"{type(error).__name__} in {last.filename}:{last.lineno}"
        said = f"error (internal): {Redactor().redact(str(error))} ({where}); this is a bug in testronaut-llm"
        screen.note("\n".join((said, *getattr(error, "__notes__", ()))))
        return screen.FAILED
    return 0


def _without_key() -> list[str]:
    """Returns the steps to an answer from the embedded model, or what else works on this platform."""
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.local.embedded_child import unsupported
    from testronaut_llm.local.model_downloader import DEFAULT
    from testronaut_llm.local.readiness import readiness

    if never := unsupported():
        return [f"{never.fix}; {never.what}"]
    name = f"embedded/{DEFAULT}"
    fix = readiness(ModelConfig(alias=name, model=name)).fix
    known = {option for one in get_command(app).commands[sys.argv[1]].params for option in one.opts}  # type: ignore[attr-defined]
    short = " --max-tokens 200" if "--max-tokens" in known else ""
    return [*filter(None, fix.split("; then ")), f"the same command with --model {name}{short} (a weak model)"]
