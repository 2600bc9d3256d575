"""Cores, memory and disk that are free for a model, within the cgroup (version 2), and the context that fits."""

from __future__ import annotations

import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from testronaut_llm.errors import LocalModelError

if TYPE_CHECKING:
    from testronaut_llm.local.gguf import GgufHeader

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
    quotas = [_text(folder / "cpu.max").split() for folder in _cgroups()]
    limits = [max(1, round(int(one[0]) / int(one[1]))) for one in quotas if len(one) == 2 and one[0].isdigit()]
    cores = min(allowed, psutil.cpu_count(logical=False) or allowed, *limits)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, round(cores * (1 - load / everywhere)))


def available_memory() -> int:
    """Returns the bytes that can be taken without swapping or reaching a cgroup's limit."""
    import psutil

    free = [psutil.virtual_memory().available]
    for limit, folder in _limits():
        statistics = dict(line.split(" ", 1) for line in _text(folder / "memory.stat").splitlines())
        free.append(limit - int(_text(folder / "memory.current") or 0) + int(statistics.get("inactive_file", 0)))
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
    found = [(_text(folder / "memory.max"), folder) for folder in _cgroups()]
    return [(int(limit), folder) for limit, folder in found if limit.isdigit()]


def _cgroups() -> list[Path]:
    """Returns the folders of this process's cgroup and of its parents. Those of the host of a container are absent."""
    for line in _text(MEMBERSHIP).splitlines():
        if line.startswith("0::/"):
            inner = CGROUP / line.removeprefix("0::/")
            return [folder for folder in (inner, *inner.parents) if folder.is_relative_to(CGROUP)]
    return []


def _text(file: Path) -> str:
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
