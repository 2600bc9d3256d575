"""Changes one value of an `llm.yaml` and not one character around it.

The text of the value is replaced where it stands, so comments, order and alignment stay (a YAML
library that writes the whole file again loses some of each). The new text is used only if it reads
as the old data with that one change, and is valid as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from testronaut_llm.config.file import FoundConfig, find_config, parse_config, read_text
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.config.splice import changed, spliced, where_of
from testronaut_llm.config.trust import is_trusted, record_of, trust
from testronaut_llm.config.yaml_reader import read_yaml
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import data_dir, made, write_atomically

_PATIENCE_SECONDS = 30


def set_value(path: str | Path, dotted_key: str, yaml_text: str) -> LLMConfig:
    """Sets one value in a configuration file and returns the new configuration.

    A file that was trusted stays trusted. Comments inside a replaced list or mapping go with it.

    Args:
        path: the file; a symbolic link is followed.
        dotted_key: such as `tasks.cli_analysis.models`; names with dots are found, or quoted: `models."gpt-5.6"`.
        yaml_text: the value in YAML, such as `[qwen]` or `9`.

    Raises:
        ConfigError: the file, the key or the value is wrong, or the file as a whole would be; it is left untouched.
    """
    found = find_config(path)
    with _alone(found.path):
        text = read_text(found.path)
        new = edited(text, dotted_key, yaml_text, found)
        config = parse_config(new, found)
        known = is_trusted(found.path, text)
        if read_text(found.path) != text:
            raise ConfigError(f"{found.path} was changed by someone else just now: try again", file=str(found.path))
        try:
            write_atomically(found.path, new)
        except OSError as error:
            raise ConfigError(f"cannot write {found.path}: {error.strerror}", file=str(found.path)) from None
        if known:
            trust(found.path)
    return config


def edited(text: str, dotted_key: str, yaml_text: str, found: FoundConfig) -> str:
    """Returns the text with one value set. Raises ConfigError: no such key, no YAML, or no safe way to edit it."""
    file = str(found.path)
    document, value = read_yaml(text, file), read_yaml(yaml_text, f"the value of {dotted_key}").data
    where = where_of(document, dotted_key, file)
    wanted = _canonical(changed(document.data, where, value))
    plain = yaml_text.strip()
    for raw in (plain, json.dumps(value, ensure_ascii=False)):
        for new in spliced(text, document, where, raw):
            if _reads_as(new, wanted):
                return new
    mend = "is written in a way that cannot be changed safely: edit the file by hand"
    raise ConfigError(f"{file}: {dotted_key}: {mend}", file=file, line=document.line_of(where))


def _reads_as(text: str, wanted: str) -> bool:
    try:
        return _canonical(read_yaml(text).data) == wanted
    except ConfigError:
        return False


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = data_dir() / "locks" / f"config-{record_of(path).stem}.lock"
    with ExitStack() as held:
        try:
            made(lock.parent)
            held.enter_context(FileLock(lock, timeout=_PATIENCE_SECONDS))
        except Timeout:
            raise ConfigError(f"{path} is being edited by another process: try again", file=str(path)) from None
        except OSError as error:
            raise ConfigError(f"cannot lock {path} for editing: {error}", file=str(path)) from None
        yield
