"""Cores and memory as the cgroup allows."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from testronaut_llm.local import machine


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cgroup tree of this test's own, on a machine with 8 GB free and 8 cores."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 8_000_000_000}))
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None if logical else 8)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (0.1, 9, 9), raising=False)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_without_cgroups_the_machine_itself_is_asked(groups: Path) -> None:
    """On a plain machine the free memory and the cores are what counts."""
    assert (machine.available_memory(), machine.threads()) == (8_000_000_000, 8)


def test_a_limit_of_version_2_counts_and_page_cache_is_given_back(groups: Path) -> None:
    """The limit of any group above ours holds; what the kernel can drop is free."""
    write(groups / "membership", "0::/user/job\n")
    write(groups / "cgroup/user/job/memory.max", "max\n")
    write(groups / "cgroup/user/memory.max", "1000000000\n")
    write(groups / "cgroup/user/memory.current", "700000000\n")
    write(groups / "cgroup/user/memory.stat", "anon 1\ninactive_file 200000000\n")
    write(groups / "cgroup/user/job/cpu.max", "250000 100000\n")
    assert (machine.available_memory(), machine.threads()) == (500_000_000, 2)


def test_a_limit_of_version_1_counts(groups: Path) -> None:
    """Older systems keep one tree a controller; its biggest number means no limit."""
    write(groups / "membership", "9:name=systemd:/\n4:memory:/docker/abc\n3:cpu,cpuacct:/\n")
    write(groups / "cgroup/memory/memory.limit_in_bytes", f"{(1 << 63) - 4096}\n")
    write(groups / "cgroup/memory/docker/abc/memory.limit_in_bytes", "600000000\n")
    write(groups / "cgroup/memory/docker/abc/memory.usage_in_bytes", "100000000\n")
    assert machine.available_memory() == 500_000_000


def test_in_a_container_the_mounted_root_is_our_group(groups: Path) -> None:
    """The path in /proc may be the host's, which is not there: the limit at the root is used."""
    write(groups / "membership", "0::/host/path/of/container\n")
    write(groups / "cgroup/memory.max", "300000000\n")
    write(groups / "cgroup/cpu.max", "max 100000\n")
    assert (machine.available_memory(), machine.threads()) == (300_000_000, 8)


def test_more_used_than_allowed_is_nothing_left(groups: Path) -> None:
    """Never a negative number of bytes."""
    write(groups / "membership", "0::/\n")
    write(groups / "cgroup/memory.max", "100\n")
    write(groups / "cgroup/memory.current", "300\n")
    assert machine.available_memory() == 0


@pytest.mark.parametrize(("load", "threads"), [(0.4, 8), (2.0, 6), (4.0, 4), (8.0, 1), (50.0, 1)])
def test_busy_cores_are_left_alone(groups: Path, monkeypatch: pytest.MonkeyPatch, load: float, threads: int) -> None:
    """Threads that share their core with others slow each other down; there is always one."""
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (load, 0, 0))
    assert machine.threads() == threads
