"""Silences the warnings of LiteLLM and the libraries below during our calls, and no others.

The filter stands in the process's list of filters, and matches only in a context that is inside `silenced()`: other
threads, tasks and the caller's own code see their warnings as before (`warnings.catch_warnings` would change them for
all). A host that runs with `-W error` would otherwise lose a good answer to a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_inside: ContextVar[bool] = ContextVar("testronaut_llm_inside_litellm", default=False)


class _InsideMeta(type):
    def __subclasscheck__(cls, category: type) -> bool:
        return _inside.get()


class _AnyInside(Warning, metaclass=_InsideMeta):
    """Stands for every category of warning, in a context that is inside `silenced()`."""


@contextmanager
def silenced() -> Iterator[None]:
    """Ignores every warning of this context; the threads that LiteLLM copies it to included."""
    if not warnings.filters or warnings.filters[0][2] is not _AnyInside:  # another filter came before it since
        warnings.simplefilter("ignore", _AnyInside)
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)
