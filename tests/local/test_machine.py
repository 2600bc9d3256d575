"""What this machine can run: cores and memory within the cgroup limits, the library, and the models that are there."""

from __future__ import annotations

import importlib.util
import platform
import re
import sysconfig
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from fixtures_local import LocalModel, chat
from tiny_model import ROW

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import machine
from testronaut_llm.local.local_provider import EmbeddedRunner
from testronaut_llm.local.machine import RESERVE, GgufHeader, fitting_context, needed_memory
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.local.readiness import embedded_missing
from testronaut_llm.providers.provider import Missing, Present
from testronaut_llm.support.paths import install


def test_limits_of_our_group_and_its_parents_count_and_busy_cores_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine has 8 GB free and 8 cores. Threads that share a core are slow; at least one core is used."""

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8_000_000_000))
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None if logical else 8)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    for busy, threads in {50.0: 1, 4.0: 4, 2.0: 6, 0.1: 8}.items():
        monkeypatch.setattr(machine.os, "getloadavg", lambda busy=busy: (busy, 9, 9), raising=False)
        assert machine.threads() == threads
    assert machine.available_memory() == 8_000_000_000
    write("membership", "0::/user/job\n")
    write("cgroup/user/job/memory.max", "max\n")
    write("cgroup/user/memory.max", "1000000000\n")
    write("cgroup/user/memory.current", "700000000\n")
    write("cgroup/user/memory.stat", "anon 1\ninactive_file 200000000\n")  # page cache is given back
    write("cgroup/user/job/cpu.max", "250000 100000\n")
    assert (machine.available_memory(), machine.threads()) == (500_000_000, 2)
    write("membership", "0::/path/of/the/host\n")  # as in a container, whose root is our group
    write("cgroup/memory.max", "300000000\n")
    write("cgroup/cpu.max", "max 100000\n")
    assert (machine.available_memory(), machine.threads()) == (300_000_000, 8)
    write("cgroup/memory.current", "400000000\n")
    assert machine.available_memory() == 0


MODEL = GgufHeader(size=1_000_000_000, context=32768, embedding=2048, vocabulary=50_000, kv_bytes=100_000)


def test_the_context_fits_the_memory_and_the_model_or_is_refused_with_numbers() -> None:
    """8192 tokens unless `num_ctx` says otherwise; never more than the model was trained for, less on a small one.

    A text to embed is computed at once, so that its context is smaller.
    """
    large, small = (needed_memory(MODEL, context) + RESERVE for context in (100_000, 3000))
    assert [fitting_context(MODEL, "m", large, wanted=one) for one in (None, 20_000, 10**6)] == [8192, 20_000, 32768]
    assert fitting_context(MODEL, "m", large, embeddings=True) == 2048
    assert fitting_context(replace(MODEL, context=300), "m", large) == 300
    assert fitting_context(MODEL, "m", small) == 2816
    with pytest.raises(LocalModelError, match=r"num_ctx: 16384 needs about .* MiB .* write num_ctx: 2816 in llm.yaml"):
        fitting_context(MODEL, "m", small, wanted=16384)
    with pytest.raises(LocalModelError, match=r"embedded/m needs about 1,.* MiB .* 936 MiB are free"):
        fitting_context(MODEL, "m", 1000 * 2**20)


TINY = LocalModel()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('libgomp.so.1: cannot open shared object file')", "): install the library that it names"),
        ("raise ImportError('no GLIBC_2.99')", "(ImportError: no GLIBC_2.99): pip install "),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "(crashed (SIGILL)): pip "),
    ],
)
def test_a_library_that_cannot_be_loaded_is_named_before_a_call(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    (library := tmp_path / "broken" / "xllamacpp").mkdir(parents=True)
    (library / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(library.parent))
    with pytest.raises(LocalModelError, match=re.escape(said)) as caught:
        EmbeddedRunner(store).endpoint(TINY)
    assert "is not ready: llama.cpp cannot be loaded" in str(caught.value)
    assert " pull " not in str(caught.value)
    (library / "__init__.py").write_text("")
    assert isinstance(embedded_missing(TINY, store=store), Present)


def test_what_is_missing_comes_with_the_command(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embedded_missing(TINY, store=store) == Present(store.list()[0].sha256)
    smol, pull = LocalModel(name="smollm2-135m"), "testronaut-llm models pull embedded/smollm2-135m"
    assert embedded_missing(smol, store=store) == Missing("the model is not on this machine", pull)
    assert "cannot be the name" in str(embedded_missing(LocalModel(name="../x"), store=store))
    assert isinstance(embedded_missing(TINY), Missing)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    lacks = "the package xllamacpp is not installed"
    assert embedded_missing(TINY, store=store) == Missing(lacks, install("embedded"))
    both = Missing(f"{lacks}, and the model is not on this machine", f"{install('embedded')}; then {pull}")
    assert embedded_missing(smol, store=store) == both
    for system, libc, name in (("Windows", "", "Windows"), ("Linux", "x86_64-pc-linux-musl", "musl")):
        monkeypatch.setattr(platform, "system", lambda system=system: system)
        monkeypatch.setattr(sysconfig, "get_config_var", lambda _, libc=libc: libc)
        missing = embedded_missing(TINY, store=store)
        assert f"embedded models do not run on {name}" in missing.what
        assert ("Ollama" in missing.fix, "pip" in missing.fix) == (True, False)


@pytest.mark.usefixtures("tiny_offered")
def test_auto_pull_fetches_what_is_missing(empty: ModelStore) -> None:
    """`auto_pull: true` makes a model of the catalogue ready; `ask` needs the command line."""
    assert embedded_missing(LocalModel(auto_pull=True), store=empty) is None
    assert embedded_missing(LocalModel(auto_pull="ask"), store=empty)
    assert embedded_missing(LocalModel(name="own", auto_pull=True), store=empty)
    with closing(EmbeddedRunner(empty)) as runner:
        assert chat(runner.endpoint(LocalModel(auto_pull=True)), "Say hello.")["choices"]
    (found,) = empty.list()
    assert (found.sha256, found.license, found.context) == (ROW["sha256"], "MIT", 8192)
    assert found.last_used
    assert list((empty.folder / ".parts").iterdir()) == []
