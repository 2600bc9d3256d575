"""The memory that a model needs, by the header of its file, and what this machine has: cores, memory, disk.

A GGUF file may be malicious: numbers are bounded before use, and lists are skipped. Limits are those of the cgroup
(version 2), if there is one.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from testronaut_llm.errors import LocalModelError

_TEXT, _LIST = 8, 9
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_MOST_KEYS, _MOST_TEXTS, _MOST_LETTERS, _MOST_LAYERS = 4096, 4_000_000, 1024, 1024
"""Real files have some 100 keys, and lists of up to 600,000 texts; longer texts are skipped."""
_MOST = {"block_count": _MOST_LAYERS, "pooling_type": 4, "context_length": 2**27}
"""Bounds of numbers; of the others, 2**20."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """Facts about the model of a GGUF file. `size` is bytes of the file, `context` the tokens it was trained for.

    `kv_bytes` is the memory of one token of context (0 for Mamba and RWKV, which keep none), `pooling` the kind of
    embedding (None: a chat model).
    """

    size: int
    context: int
    embedding: int
    vocabulary: int
    kv_bytes: int
    pooling: int | None = None
    has_template: bool = True


class _UnusableError(Exception):
    """The file cannot be used; the message says why."""


def read_header(path: Path, *, source: str = "") -> GgufHeader:
    """Returns a model's header. `source` is where the file was just fetched from, if it is not in the store yet.

    Raises LocalModelError: the file is missing, damaged, or not a model that can be served alone.
    """
    try:
        with path.open("rb", buffering=1 << 16) as file:
            size = os.fstat(file.fileno()).st_size
            return _header(_metadata(file, size), size)
    except _UnusableError as error:
        reason = str(error)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except (ValueError, LookupError, TypeError, ArithmeticError, struct.error):
        reason = "its header is damaged or cut"
    name = path.stem
    what, fix = (
        (source, "Nothing was kept") if source else (f"embedded/{name} ({path})", f"Replace it: {pull_again(name)}")
    )
    raise LocalModelError(f"{what} is not a usable GGUF model: {reason}. {fix}")


def pull_again(name: str) -> str:
    """Returns the command that replaces a damaged embedded model."""
    return f"testronaut-llm models remove embedded/{name} && testronaut-llm models pull embedded/{name}"


def _metadata(file: BinaryIO, size: int) -> dict[str, Any]:
    if (start := file.read(4)) != b"GGUF":
        raise _UnusableError(
            f"it begins with {start!r}, expected b'GGUF' (of a model hub, take the address with /resolve/ in place of "
            "/blob/, or hf://owner/repo/file.gguf)"
        )
    version, tensors, pairs = _numbers(file, "<IQQ")
    if version not in (2, 3):
        raise _UnusableError(f"it has GGUF version {version}, expected 2 or 3, little-endian")
    if pairs > _MOST_KEYS:
        raise ValueError
    metadata = {(key := _text(file, size)): _value(file, size, key) for _ in range(pairs)}
    if file.tell() > size:
        raise ValueError
    if not tensors or metadata.get("split.count", 1) not in (0, 1):
        raise _UnusableError("it holds a part of a model, or no weights; take the model in one file")
    return metadata


def _numbers(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _text(file: BinaryIO, size: int) -> str:
    """Returns a text; empty if it is long."""
    (length,) = _numbers(file, "<Q")
    if length <= _MOST_LETTERS:
        return file.read(length).decode("utf-8", "replace")
    file.seek(min(length, size), os.SEEK_CUR)
    return ""


def _value(file: BinaryIO, size: int, key: str) -> Any:
    """Returns a number, a text, or a list: numbers per layer, else a range of its length."""
    (kind,) = _numbers(file, "<I")
    if kind == _TEXT:
        return _text(file, size)
    if kind != _LIST:
        return _numbers(file, _FORMATS[kind])[0]
    kind, length = _numbers(file, "<IQ")
    if kind == _TEXT:
        if length > _MOST_TEXTS:
            raise ValueError
        read, seek, unpack = file.read, file.seek, struct.Struct("<Q").unpack
        for _ in range(length):  # hundreds of thousands, so with as few calls as possible
            seek(min(unpack(read(8))[0], size), os.SEEK_CUR)
    elif key.endswith((".head_count", ".head_count_kv")) and length <= _MOST_LAYERS:
        return _numbers(file, f"<{length}{_FORMATS[kind][1]}")
    else:
        file.seek(min(length * struct.calcsize(_FORMATS[kind]), size), os.SEEK_CUR)
    return range(length)


def _header(metadata: dict[str, Any], size: int) -> GgufHeader:
    family, missing = metadata["general.architecture"], object()

    def numbers(key: str, default: Any = missing) -> tuple[int, ...]:
        """Returns a number, or one for each layer."""
        name, most = f"{family}.{key}", _MOST.get(key, 2**20)
        value = metadata.get(name, default)
        found = value if isinstance(value, tuple) else (value,)
        for one in found:
            if type(one) is not int or not 0 <= one <= most:
                what = "is missing" if one is missing else f"is {one!r:.40}, expected at most {most:,}"
                raise _UnusableError(f"its header cannot be that of a language model: {name!r:.80} {what}")
        return found

    (layers,), (width,), (context,) = numbers("block_count"), numbers("embedding_length"), numbers("context_length")
    heads = numbers("attention.head_count", 0)
    across = width // max(1, *heads)
    (keys,), (values,) = numbers("attention.key_length", across), numbers("attention.value_length", across)
    kept = numbers("attention.head_count_kv", heads)
    return GgufHeader(
        size=size,
        context=context,
        embedding=width,
        vocabulary=len(metadata["tokenizer.ggml.tokens"]),
        kv_bytes=2 * (keys + values) * sum(kept) * (layers if len(kept) == 1 else 1),
        pooling=numbers("pooling_type")[0] if f"{family}.pooling_type" in metadata else None,
        has_template="tokenizer.chat_template" in metadata,
    )


CGROUP, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
GPUS = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")
"""Devices of graphics cards with their own memory: NVIDIA, AMD, and both under WSL."""
DEFAULT_CONTEXT, DEFAULT_TEXT, SMALLEST_CONTEXT, STEP, BATCH = 8192, 2048, 512, 256, 512
"""Tokens. A text to embed is computed at once, so that memory is needed for all of it."""
WIDTHS = 32
"""Activations of each token of a batch, in widths of the model (measured)."""
OVERHEAD, RESERVE, MARGIN = 80 * 2**20, 64 * 2**20, 64 * 2**20
"""Bytes of the child process without a model (Python, llama.cpp, HTTP threads); memory and disk left to others."""


def threads() -> int:
    """Returns the number of cores to use: physical, allowed by affinity and cgroup quota, and not busy.

    llama.cpp's threads wait for each other: on two busy cores, two are five times slower than one (measured).
    """
    import psutil

    everywhere = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else everywhere
    quotas = [_file_text(folder / "cpu.max").split() for folder in _cgroups()]
    limits = [max(1, round(int(one[0]) / int(one[1]))) for one in quotas if len(one) == 2 and one[0].isdigit()]
    cores = min(allowed, psutil.cpu_count(logical=False) or allowed, *limits)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, round(cores * (1 - load / everywhere)))


def available_memory() -> int:
    """Returns the bytes that can be taken without swapping or reaching a cgroup's limit."""
    import psutil

    free = [psutil.virtual_memory().available]
    for limit, folder in _limits():
        statistics = dict(line.split(" ", 1) for line in _file_text(folder / "memory.stat").splitlines())
        free.append(limit - int(_file_text(folder / "memory.current") or 0) + int(statistics.get("inactive_file", 0)))
    return max(0, min(free))


def memory() -> int:
    """Returns the bytes that could be taken if nothing else ran here."""
    import psutil

    return min(psutil.virtual_memory().total, *(limit for limit, _ in _limits()), sys.maxsize)


def memory_of_servers() -> float:
    """Returns the bytes that another server on this machine can use, with swap; infinite if there may be a GPU."""
    import psutil

    if os.name == "nt" or any(Path(device).exists() for device in GPUS):
        return math.inf
    return float(psutil.virtual_memory().total + psutil.swap_memory().total)


def _limits() -> list[tuple[int, Path]]:
    """Returns (limit in bytes, folder) of each cgroup that limits the memory of this process."""
    found = [(_file_text(folder / "memory.max"), folder) for folder in _cgroups()]
    return [(int(limit), folder) for limit, folder in found if limit.isdigit()]


def _cgroups() -> list[Path]:
    """Returns the folders of this process's cgroup and of its parents. Those of the host of a container are absent."""
    for line in _file_text(MEMBERSHIP).splitlines():
        if line.startswith("0::/"):
            inner = CGROUP / line.removeprefix("0::/")
            return [folder for folder in (inner, *inner.parents) if folder.is_relative_to(CGROUP)]
    return []


def _file_text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def needed_memory(header: GgufHeader, context: int, *, embeddings: bool = False) -> int:
    """Returns the bytes of serving a model with one slot of `context` tokens: weights, KV cache, compute buffers."""
    batch = batch_size(context, embeddings=embeddings)
    scores = 4 * batch * header.vocabulary if header.pooling is None else 0  # also for embeddings of a chat model
    return header.size + context * header.kv_bytes + 4 * batch * WIDTHS * header.embedding + scores + OVERHEAD


def batch_size(context: int, *, embeddings: bool = False) -> int:
    """Returns the tokens computed at once. An embedding needs its whole text at once."""
    return context if embeddings else min(context, BATCH)


def fitting_context(
    header: GgufHeader, name: str, available: int, *, wanted: int | None = None, embeddings: bool = False
) -> int:
    """Returns the tokens of context to load a model with, given `available` bytes.

    `wanted` (`num_ctx`) is kept or refused, but never exceeds what the model was trained for; without it the context
    shrinks as far as necessary. Raises LocalModelError if the wanted or the smallest context does not fit.
    """

    def needed(size: int) -> int:
        return needed_memory(header, size, embeddings=embeddings)

    room = max(0, available - RESERVE)
    target = min(wanted or (DEFAULT_TEXT if embeddings else DEFAULT_CONTEXT), header.context)
    sizes = [target, *range(target - target % STEP, SMALLEST_CONTEXT - 1, -STEP)]
    largest: int | None = next((one for one in sizes if needed(one) <= room), None)
    if largest is not None and (largest == target or wanted is None):
        return largest
    if largest is not None:
        asked, size = f" with num_ctx: {wanted}", target
        fix = f"The largest context that fits: write num_ctx: {largest} in llm.yaml, or name a smaller model"
    else:
        asked, size = "", min(SMALLEST_CONTEXT, target)
        fix = "Close other programs, or name a smaller model, or a Q4 file of it (testronaut-llm models list)"
    what = f"embedded/{name}{asked} needs about {_mib(needed(size))} of memory for a context of {size:,} tokens"
    raise LocalModelError(f"{what}, and {_mib(room)} are free. {fix}")


def check_memory(what: str, size: int, most: float | None = None) -> None:
    """Raises LocalModelError if weights of `size` bytes can never be loaded into `most` bytes (this machine's)."""
    most = memory() if most is None else most
    if size + OVERHEAD > most:
        lack = f"{what} needs at least {_mib(size)} of memory, and this machine has {_mib(int(most))}"
        raise LocalModelError(f"{lack}; name a smaller model, or a Q4 file of it")


def check_disk(folder: Path, needed: int) -> None:
    """Raises LocalModelError unless `needed` bytes and a margin are free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN:
        lack = f"{folder} has {free / 1e6:,.0f} MB free, and {(needed + MARGIN) / 1e6:,.0f} MB are needed"
        raise LocalModelError(f"{lack}. Make room (testronaut-llm models remove), or set TESTRONAUT_LLM_HOME")


def _mib(amount: int) -> str:
    return f"{amount / 2**20:,.0f} MiB"
