"""Where events go: to the application's structlog, and to Python's logging where it has none.

structlog's own default prints to stdout, which would break every program that prints JSON there. A
library never configures it.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

NAME = "testronaut_llm"
_STANDARD = logging.getLogger(NAME)


def is_heard() -> bool:
    """Would anybody get an event of level INFO? Costs next to nothing where nobody would."""
    is_configured = getattr(sys.modules.get("structlog"), "is_configured", bool)  # another thread may be importing it
    return is_configured() or _STANDARD.isEnabledFor(logging.INFO)


def logger() -> Any:
    """The logger of this package, as the application has set it up by now."""
    import structlog

    if structlog.is_configured():
        return structlog.get_logger(NAME)
    return structlog.wrap_logger(
        _STANDARD,
        processors=[structlog.stdlib.filter_by_level, structlog.processors.KeyValueRenderer(key_order=["event"])],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
