"""What this machine can spare for a model: cores and memory, as its cgroup allows, not as the hardware has."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
V1_UNLIMITED = 1 << 60


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
    for folder, limit, used, reclaimable in _memory_groups():
        ceiling = _number(folder / limit)
        if ceiling is not None and ceiling < V1_UNLIMITED:
            free.append(ceiling - (_number(folder / used) or 0) + _statistic(folder / "memory.stat", reclaimable))
    return max(0, min(free))


def _memory_groups() -> list[tuple[Path, str, str, str]]:
    """This process's memory cgroups, innermost first: folder, and the names of its limit, use and page cache."""
    groups: list[tuple[Path, str, str, str]] = []
    for controllers, path in _memberships():
        if controllers == "":
            root, names = CGROUP, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            root = CGROUP / "memory"
        else:
            continue
        inner = root / path.lstrip("/")
        # In a container the path may be the host's, which is not mounted here: the root is then our own group.
        groups += [(folder, *names) for folder in (inner, *inner.parents) if folder.is_relative_to(root)]
    return groups


def _quota() -> int | None:
    for controllers, path in _memberships():
        if controllers == "":
            for folder in {CGROUP / path.lstrip("/"), CGROUP}:
                limit, _, period = (_text(folder / "cpu.max") or "max").partition(" ")
                if limit != "max":
                    return max(1, round(int(limit) / int(period)))
    return None


def _memberships() -> list[tuple[str, str]]:
    lines = (_text(MEMBERSHIP) or "").splitlines()
    return [(controllers, path) for _, controllers, path in (line.split(":", 2) for line in lines)]


def _text(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text and text.isdigit() else None


def _statistic(file: Path, name: str) -> int:
    for line in (_text(file) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
