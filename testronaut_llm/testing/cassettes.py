"""Records exchanges with real servers once, replays them later, and blocks any other use of the network.

vcrpy intercepts, matches and counts. Added here: fields that a match leaves out, a miss that is a `CassetteMissError`
with the nearest recording, and that files with a secret are not written. An audit hook sees each connect and name
look-up of Python, not of child processes.
"""

import copy
import difflib
import ipaddress
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vcr import matchers
from vcr.cassette import Cassette as VcrCassette
from vcr.errors import CannotOverwriteExistingCassetteException, UnhandledHTTPRequestError
from vcr.filters import decode_response
from vcr.persisters.filesystem import CassetteNotFoundError
from vcr.record_mode import RecordMode as VcrMode
from vcr.serialize import deserialize, serialize

from testronaut_llm.errors import CassetteMissError
from testronaut_llm.support.paths import write_atomically
from testronaut_llm.testing import cassette_format as form

_LOOK_UPS = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})
_SENDS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_INTERNET = (socket.AF_INET, socket.AF_INET6)


class NetworkBlockedError(OSError):
    """Raised into code that tries to leave the machine; an OSError, as of a dead network."""


class Contact(NamedTuple):
    """The target of a connect, or of the lookup of a name."""

    host: str
    port: int | None


@dataclass(slots=True, kw_only=True)
class NetworkGuard:
    """Connections opened while the guard was on, all on loopback, and those refused."""

    connects: list[Contact] = field(default_factory=list)
    blocked: list[Contact] = field(default_factory=list)


def stays_here(host: str) -> bool:
    """True if this host name or address is the machine itself."""
    if host in ("", "localhost", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


_guards: list[NetworkGuard] = []


@contextmanager
def network_guard() -> Iterator[NetworkGuard]:
    """Blocks the network except loopback during the block. Guards nest; each has its own lists."""
    guard = NetworkGuard()
    _guards.append(guard)
    _install()
    try:
        yield guard
    finally:
        _guards[:] = [one for one in _guards if one is not guard]


@cache
def _install() -> None:
    sys.addaudithook(_hook)  # it cannot be removed


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event in _LOOK_UPS:
        host, port = (*args, None)[:2]
    elif event in _SENDS and args[0].family in _INTERNET and args[1]:
        host, port = args[1][:2]
    else:
        return
    name = host.decode("idna") if isinstance(host, bytes) else str(host or "")
    contact, allowed = Contact(name, port if isinstance(port, int) else None), stays_here(name)
    for guard in tuple(_guards):
        if not allowed:
            guard.blocked.append(contact)
        elif event == "socket.connect":
            guard.connects.append(contact)
    if _guards and not allowed:
        fix = "replay a cassette or use a server on 127.0.0.1"
        raise NetworkBlockedError(f"the network is blocked in tests: {event} to {name!r} port {contact.port}; {fix}")


_hook.__cantrace__ = True  # type: ignore[attr-defined]  # lets coverage and debuggers see into it


Mode = Literal["none", "once", "refresh"]
_VCR_MODES = {"none": VcrMode.NONE, "once": VcrMode.ONCE, "refresh": VcrMode.ALL}
_LISTINGS = ("/api/tags", "/api/version", "/api/show", "/api/ps")
THIS_TEST = "<this test>"
"""Placeholder that the plugin replaces by the name of the test."""


class UnplayedRecordingError(AssertionError):
    """The cassette holds a recording that the test did not use."""


class Cassette(VcrCassette):  # type: ignore[misc]  # vcrpy has no types
    """One open cassette."""

    def __init__(self, path: str, *, ignored: Sequence[str] = (), **settings: Any) -> None:
        parts = [matchers.method, matchers.scheme, matchers.host, matchers.path, matchers.query]
        super().__init__(path, match_on=[*parts, self._same_body], **settings)
        self._ignored = [field.split(".") for field in ignored]
        self._lock = threading.RLock()

    def _load(self) -> None:
        if self.record_mode is not VcrMode.ALL:  # a refresh forgets what was recorded and noted
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

    def leave_out_listings(self) -> None:
        """Does not record requests that list Ollama models, since a replay does not send them."""
        clean: Any = self._before_record_request
        self._before_record_request: Any = lambda request: None if request.path in _LISTINGS else clean(request)

    def note(self, name: str, value: str) -> str:
        """Stores a fact in a new recording, such as the model's name; of an old one, returns the stored fact."""
        return str(self.get_metadata(name, value))

    def check_all_played(self) -> None:
        """Raises `UnplayedRecordingError` if a replay left recordings unused."""
        if self.write_protected and not self.all_played:
            unplayed = [one for index, one in enumerate(self.requests) if not self.play_counts[index]]
            names = ", ".join(f"{one.method} {one.path}" for one in unplayed)
            fix = f"Record again with pytest --llm-record=refresh {THIS_TEST}, or delete what is not needed."
            raise UnplayedRecordingError(f"{self.path}: recorded but not used: {names}. {fix}")

    def write(self) -> None:
        """Writes what was recorded as a whole file. Raises ValueError if it would hold a secret."""
        if not self.dirty:
            return
        hosts = ", ".join(sorted({str(request.host) for request in self.requests}))
        self.note("recorded_from", hosts or "nothing")
        super()._save()

    def _save(self, force: bool = False) -> None:
        """Does nothing: an error here would leave all HTTP clients patched. See `write`."""

    def _same_body(self, request: Any, recorded: Any) -> None:
        """Compares bodies, JSON as data. Raises AssertionError with the difference, for vcrpy."""
        matchers.raw_body(self._comparable(request), self._comparable(recorded))

    def _comparable(self, request: Any) -> Any:
        """Returns a copy with the JSON in lines and sorted, without the ignored fields."""
        request, value = copy.copy(request), form.body_to_field(request.body).get("json")
        for path in self._ignored:
            _drop(value, path)
        if value is not None:
            request.body = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
        return request

    def _miss(self, request: Any) -> CassetteMissError:
        """Returns the error for a request without a recording, with the difference and the options of the plugin."""
        found = CannotOverwriteExistingCassetteException(cassette=self, failed_request=request)
        asked, how = self.filter_request(request), "refresh"
        lines = [f"{asked.method} {asked.uri} is not recorded in {self.path}."]
        if found.reason == "cassette_not_found":
            lines, how = [*lines, "The cassette does not exist."], "once"
        elif found.reason == "already_played":
            lines.append("Its recording was already played: each one answers once.")
        elif found.similar_requests:
            bodies = {str(one.body): (one, dict(failed)) for one, _, failed in found.similar_requests}
            nearest, differs = bodies[difflib.get_close_matches(str(asked.body), bodies, n=1, cutoff=0)[0]]
            lines.append(f"The nearest recording is {nearest.method} {nearest.uri}:")
            lines.append(differs.get("_same_body") or "(its body is the same)")
        lines.append(f"If the request is right, record it: pytest --llm-record={how} {THIS_TEST}")
        return CassetteMissError("\n".join(lines))


def _drop(value: Any, path: Sequence[str]) -> None:
    key, *rest = path
    if isinstance(value, list) and key == "*":
        for item in value:
            _drop(item, rest)
    elif isinstance(value, dict) and rest:
        _drop(value.get(key), rest)
    elif isinstance(value, dict):
        value.pop(key, None)


class _Files:
    """vcrpy's persister: UTF-8, atomic, and without secrets."""

    @staticmethod
    def load_cassette(path: str, serializer: Any) -> Any:
        if not Path(path).is_file():
            raise CassetteNotFoundError
        return deserialize(Path(path).read_text("utf-8"), serializer)

    @staticmethod
    def save_cassette(path: str, cassette: dict[str, Any], serializer: Any) -> None:
        text = serialize(cassette, serializer)
        if leaks := form.leaks(text, os.environ):
            raise ValueError(f"not saved: {path} would hold " + "; ".join(leaks))
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), text, mode=0o644)


@contextmanager
def use_cassette(
    path: Path | str,
    *,
    mode: Mode = "none",
    recorded_from: str = "",
    ignored: Sequence[str] = (),
    play_all: bool = True,
) -> Iterator[Cassette]:
    """Replays `path`, or records it, while the block runs; any HTTP client of this process takes part.

    Args:
        path: the cassette's file.
        mode: `none` replays only; `once` records if there is no file; `refresh` records again
            and replaces the file when the block succeeds.
        recorded_from: the real server and its version, for the reader of a new recording;
            by default the hosts that answered.
        ignored: body fields to leave out of the match: `options.num_ctx`, or in each item of a list
            `messages.*.images`.
        play_all: fail if a recording was not used.

    Raises:
        CassetteMissError: a request was not recorded. It is raised into the HTTP client, where it
            may arrive as the cause of the client's own error.
        UnplayedRecordingError: at the end of the block.
        ValueError: at the end of the block: the recording would hold a secret, and was not written.
    """
    clean = partial(form.clean_response, secrets=form.secrets_in(os.environ))
    opened = Cassette.use(
        path=str(path),
        ignored=ignored,
        record_mode=_VCR_MODES[mode],
        serializer=form.Serializer,
        persister=_Files,
        before_record_request=form.clean_request,
        before_record_response=lambda response: clean(decode_response(response)),
    )
    with opened as cassette:
        yield cassette
        if cassette.dirty and recorded_from:
            cassette.note("recorded_from", recorded_from)
    cassette.write()
    if play_all:
        cassette.check_all_played()
