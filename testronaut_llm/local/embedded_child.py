"""The child process that serves one model: a crash or an out-of-memory of llama.cpp ends this one, not the user's.

`embedded_process` runs this file as a script, so that it loads nothing of the package but itself. It reads one line of
JSON on stdin, serves on loopback, prints its address in one line, and ends when stdin does: the parent closed it, or
died. While llama.cpp loads a model no Python runs, so Linux is asked to end it as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

READY = "testronaut-llm ready "
PR_SET_PDEATHSIG = 1
LOG_ERRORS = 1


def main() -> None:
    """Serves until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = json.loads(sys.stdin.buffer.readline())
    _end_with(settings["parent"])
    _be_the_first_to_go()
    try:
        server = _serve(settings)
    except RuntimeError:  # llama.cpp has said why, and this exception does not
        os._exit(1)
    sys.stdout.write(f"\n{READY}{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    os._exit(0)  # no tidying: a request may still be computing, and nothing here outlives the process


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
    params.fit_params = False  # the context was chosen by the parent, which can say why
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
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.name == "posix":
        if os.getppid() != parent:
            os._exit(1)
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    """Stdin stays open when a fork of the parent inherited its other end; the parent's number tells the truth."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _be_the_first_to_go() -> None:
    """Ask Linux to take this process, not the user's, when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
