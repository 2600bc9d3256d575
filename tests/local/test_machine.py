"""Cores and memory within the cgroup limits, and the context that fits into them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import machine
from testronaut_llm.local.gguf import GgufHeader
from testronaut_llm.local.machine import RESERVE, fitting_context, needed_memory


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cgroup tree for this test, on a machine with 8 GB free and 8 cores."""
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


def test_a_limit_of_version_2_counts_and_page_cache_is_given_back(groups: Path) -> None:
    assert (machine.available_memory(), machine.threads()) == (8_000_000_000, 8)
    write(groups / "membership", "0::/user/job\n")
    write(groups / "cgroup/user/job/memory.max", "max\n")
    write(groups / "cgroup/user/memory.max", "1000000000\n")
    write(groups / "cgroup/user/memory.current", "700000000\n")
    write(groups / "cgroup/user/memory.stat", "anon 1\ninactive_file 200000000\n")
    write(groups / "cgroup/user/job/cpu.max", "250000 100000\n")
    assert (machine.available_memory(), machine.threads()) == (500_000_000, 2)


def test_in_a_container_the_mounted_root_is_our_group(groups: Path) -> None:
    write(groups / "membership", "0::/host/path/of/container\n")
    write(groups / "cgroup/memory.max", "300000000\n")
    write(groups / "cgroup/cpu.max", "max 100000\n")
    assert (machine.available_memory(), machine.threads()) == (300_000_000, 8)
    write(groups / "cgroup/memory.current", "400000000\n")
    assert machine.available_memory() == 0


def test_busy_cores_are_left_alone(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy cores are not used, since threads that share a core are slow; at least one core is used."""
    for load, threads in {0.4: 8, 2.0: 6, 4.0: 4, 50.0: 1}.items():
        monkeypatch.setattr(machine.os, "getloadavg", lambda load=load: (load, 0, 0))
        assert machine.threads() == threads


MODEL = GgufHeader(size=1_000_000_000, context=32768, embedding=2048, vocabulary=50_000, kv_bytes=100_000)


def room_for(context: int) -> int:
    return needed_memory(MODEL, context) + RESERVE


def test_the_context_fits_the_memory_and_the_model() -> None:
    """8192 tokens unless `num_ctx` says otherwise; never more than the model was trained for, less on a small one.

    A text to embed is computed at once, so that its context is smaller.
    """
    large = room_for(100_000)
    assert [fitting_context(MODEL, "m", large, wanted=one) for one in (None, 20_000, 10**6)] == [8192, 20_000, 32768]
    assert fitting_context(MODEL, "m", large, embeddings=True) == 2048
    assert fitting_context(replace(MODEL, context=300), "m", large) == 300
    assert fitting_context(MODEL, "m", room_for(3000)) == 2816


def test_what_does_not_fit_is_refused_with_numbers() -> None:
    with pytest.raises(LocalModelError, match=r"num_ctx: 16384 needs about .* MiB .* write num_ctx: 2816 in llm.yaml"):
        fitting_context(MODEL, "m", room_for(3000), wanted=16384)
    with pytest.raises(LocalModelError, match=r"embedded/m needs about 1,.* MiB .* 936 MiB are free"):
        fitting_context(MODEL, "m", 1000 * 2**20)
