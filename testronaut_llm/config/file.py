"""Which `llm.yaml` rules, and what it says.

One file rules, nothing is merged: the argument, `TESTRONAUT_LLM_CONFIG`, the nearest `llm.yaml`
upwards from the working folder, the user's own, the packaged default.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testronaut_llm.config.faults import Fault, Source, error_of
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.config.trust import is_trusted
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import config_dir, user_path
from testronaut_llm.support.text import read_utf8

FILE_NAME = "llm.yaml"
PATH_VARIABLE = "TESTRONAUT_LLM_CONFIG"
PACKAGED = Path(__file__).parent.with_name(FILE_NAME)

How = Literal["argument", "environment", "upwards", "user", "packaged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundConfig:
    """A configuration file, and how it was found; only one found `upwards` has to be trusted first."""

    path: Path
    how: How


def find_config(argument: str | Path | None = None) -> FoundConfig:
    """Returns the file that rules. Raises ConfigError: a path was given outright and leads to no file."""
    if argument is not None:
        return FoundConfig(path=_given(argument, "the argument"), how="argument")
    if given := os.environ.get(PATH_VARIABLE):
        return FoundConfig(path=_given(given, PATH_VARIABLE), how="environment")
    if (nearest := _nearest()) is not None:
        return FoundConfig(path=nearest, how="upwards")
    own = config_dir() / FILE_NAME
    if own.is_file():
        return FoundConfig(path=own, how="user")
    return FoundConfig(path=PACKAGED, how="packaged")


def load_config(path: str | Path | None = None) -> LLMConfig:
    """Returns what a file says, or the one that rules; a path given outright is trusted.

    Raises:
        ConfigError: with every fault, its line, and the closest valid name.
    """
    found = find_config(path)
    return parse_config(read_text(found.path), found)


def read_text(path: Path) -> str:
    """Returns a configuration file's text. Raises ConfigError: it cannot be read, is far too large, or is not UTF-8."""
    from testronaut_llm.config.yaml_reader import MAX_BYTES

    return read_utf8(path, most=MAX_BYTES)


def parse_config(text: str, found: FoundConfig) -> LLMConfig:
    """Returns what the text of a found file says. Raises ConfigError: every fault, its line, and the closest name."""
    from testronaut_llm.config.yaml_reader import read_yaml

    file = str(found.path)
    document = read_yaml(text, file)
    if document.data is None:
        mend = "is empty: run `testronaut-llm init`, or write `tasks:`"
        raise error_of([*document.faults, Fault((), mend, 1)], file)
    source = Source(
        path=found.path,
        trusted=found.how != "upwards" or is_trusted(found.path, text),
        line_of=document.line_of,
        faults=document.faults,
    )
    return LLMConfig.model_validate(document.data, context=source)


def _given(text: str | Path, by: str) -> Path:
    path = user_path(text).absolute()
    if path.is_file():
        return path
    what = "is a folder" if path.is_dir() else "is no file"
    raise ConfigError(f"{path}, given by {by}, {what}: `testronaut-llm init` writes a new one", file=str(path))


def _nearest() -> Path | None:
    try:
        folder = Path.cwd()
    except OSError:
        return None
    # os.path takes a folder that is closed to us as one without the file.
    files = (parent / FILE_NAME for parent in (folder, *folder.parents))
    return next((file for file in files if os.path.isfile(file)), None)  # noqa: PTH113
