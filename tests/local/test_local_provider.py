"""Embedded models: real llama.cpp processes that are started, shared, idle, killed and orphaned."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import sys
import time
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

import httpx
import psutil
import pytest
from fixtures_local import TINY, LocalModel, chat, post, stored
from manager_kit import eventually

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import embedded_child, local_provider, machine
from testronaut_llm.local.local_provider import EmbeddedRunner, Endpoint
from testronaut_llm.local.model_store import ModelStore

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc and PR_SET_PDEATHSIG")

MODEL = LocalModel()
HELLO = "Say hello."


@pytest.fixture
def runner(store: ModelStore) -> Iterator[EmbeddedRunner]:
    with closing(EmbeddedRunner(store)) as runner:
        yield runner


def pid_of(runner: EmbeddedRunner, model: LocalModel = MODEL) -> int:
    """Returns the process of the only server, which is started unless it runs."""
    runner.endpoint(model)
    (server,) = runner.pool.servers.values()
    return server._process.pid if server._process else 0


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


SCRIPT = """
import os, sys, time
from pathlib import Path
from fixtures_local import LocalModel, chat
from testronaut_llm.local.local_provider import EmbeddedRunner
from testronaut_llm.local.model_store import ModelStore

runner = EmbeddedRunner(ModelStore(Path(sys.argv[1])))
def start():
    endpoint = runner.endpoint(LocalModel())
    (server,) = runner.pool.servers.values()
    return endpoint, server._process.pid
"""


@contextmanager
def script(store: ModelStore, body: str) -> Iterator[Popen[str]]:
    """Another Python process that runs SCRIPT and then `body`."""
    quiet = "ignore::DeprecationWarning"  # from Python 3.12 on, a fork of a process with threads is warned of
    variables = {"PYTHONPATH": str(Path(__file__).parents[1] / "support"), "PYTHONWARNINGS": quiet}
    command = [sys.executable, "-c", SCRIPT + body, str(store.folder)]
    with Popen(command, env=os.environ | variables, text=True, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def numbers(process: Popen[str]) -> list[int]:
    return [int(word) for word in process.stdout.readline().split()]


def works(runner: EmbeddedRunner, name: str = TINY) -> bool:
    return bool(chat(runner.endpoint(LocalModel(name=name)), HELLO)["choices"])


def test_pooling_is_as_the_model_declares_it(tiny_gguf: Path) -> None:
    sizes = {"context": 1024, "batch": 256, "threads": 1, "slots": 1, "hardware": {}, "embeddings": True}
    server = embedded_child._serve({"model": str(tiny_gguf), "token": "t0ken", "pooling": 3, **sizes})
    endpoint = Endpoint(api_base=f"{server.listening_address}/v1", token="t0ken")
    (row,) = post(endpoint, "/embeddings", {"input": ["a b c"]})["data"]
    assert len(row["embedding"]) == 64


def test_each_slot_has_the_whole_context_and_no_prompt_is_cut(runner: EmbeddedRunner) -> None:
    endpoint = runner.endpoint(LocalModel(num_ctx=512), slots=3)
    slots = httpx.get(endpoint.api_base.replace("/v1", "/slots"), headers={"Authorization": f"Bearer {endpoint.token}"})
    assert [slot["n_ctx"] for slot in slots.json()] == [512] * 3
    with pytest.raises(urllib.error.HTTPError) as caught:
        chat(endpoint, "word " * 600)
    error = json.loads(caught.value.read())["error"]
    assert (caught.value.code, error["type"], error["n_ctx"]) == (400, "exceed_context_size_error", 512)


def test_threads_share_one_server_that_outlives_them_and_a_ctrl_c(runner: EmbeddedRunner) -> None:
    with ThreadPoolExecutor(8) as pool:
        endpoints = list(pool.map(lambda _: runner.endpoint(MODEL), range(16)))
    assert {endpoint.token for endpoint in endpoints} == {endpoints[0].token}
    pid = pid_of(runner)
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, signal.SIGINT)
    time.sleep(0.3)
    assert works(runner)
    assert pid_of(runner) == pid


@linux_only
def test_the_child_knows_no_secret_and_shows_no_token(runner: EmbeddedRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sentinel")
    endpoint = runner.endpoint(MODEL)
    assert endpoint.api_base.startswith("http://127.0.0.1:")
    with pytest.raises(urllib.error.HTTPError, match="401"):  # other users can reach the port
        chat(Endpoint(api_base=endpoint.api_base, token="guess"), HELLO)
    assert endpoint.token not in repr(endpoint)
    folder = Path(f"/proc/{pid_of(runner)}")
    assert b"sentinel" not in (folder / "environ").read_bytes()
    assert endpoint.token.encode() not in (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
    assert (folder / "oom_score_adj").read_text().strip() == "1000"


def test_an_idle_server_ends_and_the_next_call_starts_another(store: ModelStore) -> None:
    with closing(EmbeddedRunner(store, idle_seconds=0.1)) as runner:
        answer = chat(runner.endpoint(MODEL), "Go on.", ignore_eos=True, max_tokens=600)
        assert answer["usage"]["completion_tokens"] == 600
        pid = pid_of(runner)
        assert eventually(lambda: not alive(pid))
        assert works(runner)


def test_keep_alive_is_read_as_ollama_does() -> None:
    read = {None: 300, 0: 2, 90: 90, "10m": 600, "500ms": 2, -1: math.inf, "-1m": math.inf}
    assert {value: local_provider._idle_seconds(value, 300) for value in read} == read


@pytest.mark.parametrize("hangs", [False, True])
def test_close_ends_everything_and_the_runner_still_works(runner: EmbeddedRunner, hangs: bool) -> None:
    pid = pid_of(runner)
    if hangs:
        os.kill(pid, signal.SIGSTOP)
    runner.close()
    runner.close()
    assert not alive(pid)
    assert works(runner)


def test_a_runner_that_is_forgotten_takes_its_servers_with_it(store: ModelStore) -> None:
    runner = EmbeddedRunner(store)
    pid = pid_of(runner, LocalModel(keep_alive=-1))
    del runner
    gc.collect()
    assert not alive(pid)


@pytest.mark.parametrize("stopped", [False, pytest.param(True, marks=linux_only)])
@pytest.mark.parametrize("death", ["normal", "SIGTERM", "SIGKILL"])
def test_however_the_parent_dies_there_is_no_orphan(store: ModelStore, death: str, stopped: bool) -> None:
    """The server ends with its parent, and nothing is printed.

    While llama.cpp loads, no Python runs in the child, and the kernel ends it. Here the child is stopped instead.
    """
    with script(store, "print(start()[1], flush=True); sys.stdin.read(2)") as parent:
        (pid,) = numbers(parent)
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        if death != "normal":
            parent.send_signal(signal.Signals[death])
        _, errors = parent.communicate("go", timeout=60)
    assert eventually(lambda: not alive(pid))
    assert errors == ""


A_FORK = """
endpoint, pid = start()
if os.fork() == 0:
    other, other_pid = start()
    good = other.token != endpoint.token and other_pid != pid and chat(other, "Say hello.")["choices"]
    runner.close()
    os._exit(0 if good else 1)
status = os.wait()[1]
good = start() == (endpoint, pid) and chat(endpoint, "Say hello.")["choices"]
sibling = os.fork()
if sibling:
    print(status, int(bool(good)), pid, sibling, flush=True)
time.sleep(600)
"""


def test_a_fork_has_servers_of_its_own_and_does_not_keep_its_parents(store: ModelStore) -> None:
    with script(store, A_FORK) as parent:
        status, good, server, sibling = numbers(parent)
    try:
        assert (status, good) == (0, 1)
        assert eventually(lambda: not alive(server))
        assert alive(sibling)
    finally:
        os.kill(sibling, signal.SIGKILL)


def test_a_killed_server_is_explained_and_the_next_call_starts_it_again(runner: EmbeddedRunner) -> None:
    endpoint = runner.endpoint(MODEL)
    assert runner.crash(endpoint.api_base) is None
    os.kill(pid_of(runner), signal.SIGKILL)
    error = runner.crash(endpoint.api_base)
    assert "killed by the system (signal 9), most often because memory ran out" in str(error)
    assert error.provider == "embedded"
    assert not runner.pool.make_room()  # it has none to give
    assert works(runner)
    assert runner.endpoint(MODEL).token != endpoint.token


def test_another_file_than_expected_is_not_started(runner: EmbeddedRunner, store: ModelStore) -> None:
    digest = store.list()[0].sha256
    assert runner.endpoint(LocalModel(digest=f"sha256:{digest[:10]}"))
    runner.close()
    with pytest.raises(LocalModelError, match=r"llm.yaml wants digest: sha256:00000000"):
        runner.endpoint(LocalModel(digest="sha256:00000000"))
    store.path(TINY).write_bytes(store.path(TINY).read_bytes()[:200_000])
    with pytest.raises(LocalModelError, match=r"has 200,000 bytes on disk and had 340,352.*models pull embedded/tiny-"):
        runner.endpoint(MODEL)


def test_a_server_that_does_not_start_is_given_up_with_the_reason(
    runner: EmbeddedRunner, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = store.path(TINY)
    file.write_bytes(file.read_bytes().replace(b"llama", b"lxama"))
    with pytest.raises(LocalModelError, match=r"its process ended with status 1.*unknown model architecture"):
        runner.endpoint(MODEL)
    before = set(psutil.Process().children())
    monkeypatch.setattr(local_provider, "START_SECONDS", 0.0)
    with pytest.raises(LocalModelError, match="could not be started: it was not ready after 0 s"):
        runner.endpoint(MODEL)
    assert eventually(lambda: set(psutil.Process().children()) <= before)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(LocalModelError, match=r"could not be started: .*No such file or directory"):
        runner.endpoint(MODEL)


def test_close_ends_a_load(runner: EmbeddedRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If Ctrl-C closes the manager while a thread loads a model, close does not wait for the load."""
    (child := tmp_path / "child.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(embedded_child, "__file__", str(child))
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(runner.endpoint, MODEL)
        assert eventually(lambda: any(server._process for server in runner.pool.servers.values()))
        runner.close()
        with pytest.raises(LocalModelError, match="could not be started"):
            loading.result(timeout=20)


def test_an_idle_model_makes_room_for_another(
    runner: EmbeddedRunner, store: ModelStore, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(store, tiny_gguf, "other")
    endpoint = runner.endpoint(MODEL)
    pid, (server,) = pid_of(runner), runner.pool.servers.values()
    monkeypatch.setattr(machine, "available_memory", lambda: 0 if alive(pid) else 8 << 30)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(chat, endpoint, "Go on.", ignore_eos=True, max_tokens=2000)
        assert eventually(server.busy)
        with pytest.raises(LocalModelError, match=r"embedded/other needs about .* and 0 MiB are free"):
            runner.endpoint(LocalModel(name="other"))
        assert answer.result()["usage"]["completion_tokens"] == 2000
    assert eventually(lambda: not server.busy())
    assert works(runner, "other")
    assert not alive(pid)
