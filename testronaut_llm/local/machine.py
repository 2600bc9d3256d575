"""What this machine can spare for a model: cores and memory, as its cgroup allows, not as the hardware has."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""Where a memory cgroup says its limit, its use, and in `memory.stat` its page cache."""
V1_UNLIMITED = 1 << 60
GPUS = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")
"""Devices of graphics cards with memory of their own: NVIDIA, AMD, and either under WSL."""


def threads() -> int:
    """Cores worth computing on: physical, within the process's affinity and its cgroup's quota, and not busy already.

    llama.cpp's threads wait for each other at every step: one that has to share its core slows down all of them, so
    that two threads on two busy cores were measured to be five times slower than one.
    """
    import psutil

    everywhere = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else everywhere
    cores = min(allowed, psutil.cpu_count(logical=False) or allowed, _quota() or allowed)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, round(cores * (1 - load / everywhere)))


def available_memory() -> int:
    """Bytes that can be taken without swapping or meeting a cgroup's limit."""
    import psutil

    free = [psutil.virtual_memory().available]
    for ceiling, folder, (_, used, reclaimable) in _ceilings():
        free.append(ceiling - (_number(folder / used) or 0) + _statistic(folder / "memory.stat", reclaimable))
    return max(0, min(free))


def memory() -> int:
    """Bytes that could be taken if nothing else ran here."""
    import psutil

    return min(psutil.virtual_memory().total, *(ceiling for ceiling, *_ in _ceilings()), sys.maxsize)


def memory_of_servers() -> float:
    """Bytes that a server beside this process can have, swap too; infinite where a GPU may have more."""
    import psutil

    if os.name == "nt" or any(Path(device).exists() for device in GPUS):
        return math.inf
    return float(psutil.virtual_memory().total + psutil.swap_memory().total)


def _ceilings() -> Iterator[tuple[int, Path, tuple[str, str, str]]]:
    for folder, names in _memory_groups():
        ceiling = _number(folder / names[0])
        if ceiling is not None and ceiling < V1_UNLIMITED:
            yield ceiling, folder, names


def _memory_groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of this process's memory cgroups and of those above them."""
    for controllers, path in _memberships():
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (CGROUP / "memory", VERSION_1) if controllers else (CGROUP, VERSION_2)
        inner = root / path.lstrip("/")
        # In a container the path may be the host's, which is not mounted here: the root is then our own group.
        yield from ((folder, names) for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _quota() -> int | None:
    for path in (path for controllers, path in _memberships() if not controllers):
        for folder in {CGROUP / path.lstrip("/"), CGROUP}:
            limit, _, period = (_text(folder / "cpu.max") or "max").partition(" ")
            if limit != "max":
                return max(1, round(int(limit) / int(period)))
    return None


def _memberships() -> Iterator[tuple[str, str]]:
    """The controllers, none for version 2, and the path of each cgroup that this process is in."""
    for line in _text(MEMBERSHIP).splitlines():
        _, controllers, path = line.split(":", 2)
        yield controllers, path


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text.isdigit() else None


def _statistic(file: Path, name: str) -> int:
    lines = (line.split(" ") for line in _text(file).splitlines())
    return next((int(line[1]) for line in lines if line[0] == name), 0)
