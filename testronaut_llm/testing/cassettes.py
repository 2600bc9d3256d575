"""Record exchanges with real servers once, replay them for ever, and fail at once on anything else.

vcrpy does the interception. Ours is what makes a replay trustworthy: the body is part of the match, a
miss is `CassetteMissError` and never looks like an outage, nothing secret is written, and a
recording that no request asked for fails.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vcr.cassette import Cassette as VcrCassette
from vcr.errors import UnhandledHTTPRequestError
from vcr.filters import decode_response
from vcr.persisters.filesystem import CassetteNotFoundError
from vcr.record_mode import RecordMode as VcrMode
from vcr.serialize import deserialize, serialize

from testronaut_llm.errors import CassetteMissError
from testronaut_llm.support.paths import write_atomically
from testronaut_llm.testing import matching, scan, scrub
from testronaut_llm.testing.cassette_format import Serializer

Mode = Literal["none", "once", "refresh"]
_VCR_MODES = {"none": VcrMode.NONE, "once": VcrMode.ONCE, "refresh": VcrMode.ALL}


class UnplayedRecordingError(AssertionError):
    """The cassette holds an exchange that the test did not ask for."""


class Cassette(VcrCassette):  # type: ignore[misc]  # vcrpy has no types
    """One open cassette. `unplayed` are the recorded requests that nobody has asked for yet."""

    def __init__(self, path: str, *, ignored: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(path, match_on=matching.matchers(ignored), **settings)
        self._ignored = ignored
        self._lock = threading.RLock()

    def _load(self) -> None:
        if self.record_mode is not VcrMode.ALL:  # a refresh forgets what was there
            super()._load()

    def can_play_response_for(self, request: Any) -> bool:
        with self._lock:
            playable = bool(super().can_play_response_for(request))
            if not playable and self.write_protected and self.filter_request(request) is not None:
                raise self._miss(request)
            return playable

    def play_response(self, request: Any) -> Any:
        with self._lock:
            try:
                return super().play_response(request)
            except UnhandledHTTPRequestError:
                raise self._miss(request) from None

    def pass_by(self, *paths: str) -> None:
        """Let requests to these paths through to their server, neither recorded nor replayed."""
        clean: Any = self._before_record_request
        self._before_record_request: Any = lambda request: None if request.path in paths else clean(request)

    def note(self, name: str, value: str) -> str:
        """Keep a fact with a new recording, such as the model's name; of an old one, read it back."""
        return str(self.get_metadata(name, value))

    @property
    def unplayed(self) -> list[str]:
        """`POST /v1/messages` and the like, of recordings that were loaded and not played."""
        loaded = enumerate(self.requests[: self._loaded_count])
        return [f"{request.method} {request.path}" for index, request in loaded if not self.play_counts[index]]

    def check_all_played(self) -> None:
        """Raise `UnplayedRecordingError` when a replay left recordings unused."""
        if self.write_protected and self.unplayed:
            raise UnplayedRecordingError(
                f"{self.path}: recorded, but never asked for: {', '.join(self.unplayed)}. "
                "Record again with pytest --llm-record=refresh <this test>, or delete what is not needed."
            )

    def _miss(self, request: Any) -> CassetteMissError:
        asked = self.filter_request(request)
        lines = [f"{asked.method} {asked.uri} is not recorded in {self.path}."]
        found = matching.nearest(asked, self.requests, self._ignored)
        if found is None:
            lines.append("The cassette is empty or does not exist; record it: pytest --llm-record=once <this test>")
            return CassetteMissError("\n".join(lines))
        recorded = self.requests[found]
        name = f"recording {found + 1} of {len(self)}, {recorded.method} {recorded.uri}"
        changes = matching.difference(asked, recorded, self._ignored)
        if not changes and (recorded.method, recorded.uri) == (asked.method, asked.uri):
            lines.append(f"It is the same as {name}, which was already played: each one answers once.")
        else:
            lines += [f"The nearest is {name}:", changes or "(its body is the same)"]
        lines.append("If the request is right, record again: pytest --llm-record=refresh <this test>")
        return CassetteMissError("\n".join(lines))


class _Files:
    """vcrpy's persister: refuses to write what the scan would refuse to commit.

    What goes wrong is kept in `failure`: raised while vcrpy leaves its block, it would keep every HTTP client patched.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None

    @staticmethod
    def load_cassette(path: str, serializer: Any) -> Any:
        if not Path(path).is_file():
            raise CassetteNotFoundError
        return deserialize(Path(path).read_text("utf-8"), serializer)

    def save_cassette(self, path: str, cassette: dict[str, Any], serializer: Any) -> None:
        """Write the file as a whole, or keep why it was not written."""
        try:
            text = serialize(cassette, serializer)
            findings = [one for one in scan.scan_text(text, environ=os.environ) if one.kind in scan.SECRET_KINDS]
            if findings:
                raise ValueError(f"not saved: {path} would hold " + "; ".join(map(str, findings)))
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(path), text, mode=0o644)
        except Exception as error:  # noqa: BLE001 - raised by use_cassette when the clients are as they were
            self.failure = error


@contextmanager
def use_cassette(
    path: Path | str,
    *,
    mode: Mode = "none",
    recorded_from: str = "",
    ignored: Sequence[str] = (),
    play_all: bool = True,
) -> Iterator[Cassette]:
    """Replay `path`, or record it, while the block runs; any HTTP client of this process takes part.

    Args:
        path: the cassette's file.
        mode: `none` replays only; `once` records when there is no file; `refresh` records anew
            and replaces the file when the block succeeds.
        recorded_from: the real server and its version, for the reader of a new recording;
            by default the hosts that answered.
        ignored: body fields to leave out of the match, as `options.num_ctx`.
        play_all: fail when a recording was not asked for.

    Raises:
        CassetteMissError: a request was not recorded. It is raised into the HTTP client, where it
            may arrive as the cause of the client's own error: see `cassette_miss_in`.
        UnplayedRecordingError: at the end of the block.
        ValueError: at the end of the block: the recording would hold a secret, and was not written.
    """
    files = _Files()
    clean = partial(scrub.clean_response, secrets=scrub.secrets_in(os.environ))
    opened = Cassette.use(
        path=str(path),
        ignored=ignored,
        record_mode=_VCR_MODES[mode],
        serializer=Serializer,
        persister=files,
        before_record_request=scrub.clean_request,
        before_record_response=lambda response: clean(decode_response(response)),
        record_on_exception=False,
    )
    with opened as cassette:
        yield cassette
        if cassette.dirty:
            hosts = ", ".join(sorted({str(request.host) for request in cassette.requests}))
            cassette.note("recorded_from", recorded_from or hosts or "nothing")
    if files.failure is not None:
        raise files.failure
    if play_all:
        cassette.check_all_played()


def cassette_miss_in(error: BaseException) -> BaseException | None:
    """The cassette miss that `error` is or was caused by, of this package or of plain vcrpy; else None."""
    chain = [error]
    for one in chain:  # it grows while we walk
        if type(one).__name__ in ("CassetteMissError", "CannotOverwriteExistingCassetteException"):
            return one
        chain += [cause for cause in (one.__cause__, one.__context__) if cause is not None and cause not in chain]
    return None
