"""The child process that serves one model: a crash of llama.cpp, or a lack of memory, ends only this process.

`local_provider` runs this file as a script, so that no other module of the package is loaded. It reads one line of
JSON from stdin, serves on loopback, prints its address in one line, and ends when stdin is closed or the parent dies.
While llama.cpp loads a model no Python code runs, so Linux is also asked to end it with its parent.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testronaut_llm.providers.provider import Missing

READY = "testronaut-llm ready "
LOG_ERRORS = 1
VARIABLES = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
)
"""Variables that the child gets; the user's keys are not among them."""


_LOADABLE: set[str] = set()
"""Places from which llama.cpp was loaded; the result does not change while this process lives."""


def environment() -> dict[str, str]:
    """Returns the environment to start the child with."""
    kept = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    spec = importlib.machinery.PathFinder.find_spec("xllamacpp")
    return kept | {"PYTHONPATH": str(Path(spec.origin).parents[1]) if spec and spec.origin else ""}


def ending(status: int | None) -> str:
    """Returns a description of how a child ended, by its exit status."""
    if status == -9:
        return "was killed by the system (signal 9), most often because memory ran out"
    return f"crashed ({signal.Signals(-status).name})" if status and status < 0 else f"ended with status {status}"


def unsupported() -> Missing | None:
    """Returns why embedded models cannot run on this platform; None if they can, or if llama.cpp is there anyway."""
    import importlib.util
    import platform
    import sysconfig

    from testronaut_llm.providers.provider import Missing

    if importlib.util.find_spec("xllamacpp"):
        return None
    if platform.system() == "Windows":
        return Missing("embedded models do not run on Windows", "use Ollama (https://ollama.com/download)")
    if "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE")):
        fix = "use an image with glibc, such as python:3.12-slim, or Ollama"
        return Missing("embedded models do not run on musl (Alpine Linux): llama.cpp has no wheel for it", fix)
    return None


def library_problem() -> Missing | None:
    """Returns why llama.cpp cannot be loaded, tried in a separate process; None if it can. Success is cached."""
    variables = environment()
    if (place := variables["PYTHONPATH"]) in _LOADABLE:
        return None
    from testronaut_llm.providers.provider import Missing

    command = [sys.executable, "-P", "-c", "import xllamacpp"]
    tried = subprocess.run(command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
    if tried.returncode == 0:
        _LOADABLE.add(place)
        return None
    output = tried.stderr.decode("utf-8", "replace").strip()
    reason = output.rpartition("\n")[2][:200] or ending(tried.returncode)
    install = "install the library that it names, or: " if "cannot open shared object" in reason else ""
    fix = f"{install}pip install --force-reinstall xllamacpp, or use Ollama"
    return Missing(f"llama.cpp cannot be loaded ({reason})", fix)


def main() -> None:
    """Serves until the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = json.loads(sys.stdin.buffer.readline())
    _end_with(settings["parent"])
    with contextlib.suppress(OSError):  # when memory runs out, Linux should end this process first, not the user's
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        server = _serve(settings)
    except RuntimeError:  # llama.cpp has printed the reason, which this exception lacks
        time.sleep(0.3)  # its log is written by a thread of its own
        os._exit(1)
    sys.stdout.write(f"\n{READY}{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    os._exit(0)  # at once, even if a request is still computed


def _serve(settings: dict[str, Any]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.model_alias = {Path(settings["model"]).stem}  # else its answers carry the path of the file
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["token"]]
    params.n_ctx = settings["context"]
    params.n_batch = params.n_ubatch = settings["batch"]
    params.n_parallel = settings["slots"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.verbosity = LOG_ERRORS
    params.ui = False
    params.offline = True
    params.fit_params = False  # the parent has chosen the context
    params.cache_ram_mib = 0  # llama.cpp would keep up to 8 GiB of old prompts
    hardware = settings["hardware"]  # Ollama's words
    params.n_gpu_layers = hardware.get("num_gpu", params.n_gpu_layers)
    params.main_gpu = hardware.get("main_gpu", params.main_gpu)
    if "use_mmap" in hardware:
        modes = xllamacpp.llama_load_mode
        params.load_mode = modes.LLAMA_LOAD_MODE_MMAP if hardware["use_mmap"] else modes.LLAMA_LOAD_MODE_NONE
    if "draft_num_predict" in hardware:
        params.speculative.draft.n_max = hardware["draft_num_predict"]
    if settings["embeddings"]:
        params.embedding = True
        kinds = xllamacpp.llama_pooling_type
        declared = settings["pooling"]
        params.pooling_type = kinds.LLAMA_POOLING_TYPE_MEAN if declared is None else kinds(declared)
    return xllamacpp.Server(params)


def _end_with(parent: int) -> None:
    if sys.platform == "linux":  # the kernel ends this process when the parent's end of the pipe closes
        import fcntl

        with contextlib.suppress(OSError):  # a sandbox may not know this
            fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if os.name == "posix":
        if os.getppid() != parent:
            os._exit(1)
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    """Ends this process with its parent: stdin stays open if a fork of the parent inherited its other end."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main()
