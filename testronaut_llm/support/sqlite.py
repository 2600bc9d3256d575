"""SQLite connections that need no owner to close them."""

from __future__ import annotations

import contextlib
import sqlite3


class Connection(sqlite3.Connection):
    """Closes when nobody holds it any longer, as with the end of its thread; Python 3.13 warns where SQLite does that.

    Make it with `check_same_thread=False`, since any thread may be the last to let go.
    """

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # it was never open
            self.close()
