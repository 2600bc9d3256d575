"""A server that behaves like Ollama, with the settings of a test; never recorded, since it is not a provider."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

CHAT = {"model": "small:1b", "message": {"role": "assistant", "content": "Hello."}, "done": True, "done_reason": "stop",
        "prompt_eval_count": 12, "eval_count": 3}  # fmt: skip

_RUNNER = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
"""Options with which a model is loaded: a request that has others loads it anew."""

UNLOADED: dict[str, Any] = {}
"""Among its loads."""


class Ollama:
    """A server that has a model or pulls it, loads it, and reports its abilities."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for("").rstrip("/")
        self.asked: list[tuple[str, bytes]] = []
        self.name = "small:1b"
        self.has, self.listed, self.shown, self.pace = True, None, 8192, 0.0
        self.digest = os.urandom(32).hex()
        self.template, self.capabilities = "{{ .System }}{{ .Prompt }}", ["completion"]
        self.answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda _: {}
        self.tagged: list[str] | None = None  # what its list says that the model can do; an older server says nothing
        self.remote_host = ""
        self.loads: list[dict[str, Any]] = []
        self.holds_pull, self.pulled = threading.Event(), 0
        self.holds_pull.set()
        for path in ("tags", "show", "pull", "ps", "delete", "generate", "chat", "embed"):
            server.expect_request(f"/api/{path}").respond_with_handler(partial(self._noted, getattr(self, f"_{path}")))

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def row(self, **fields: Any) -> dict[str, Any]:
        return {"model": "ollama/small:1b", "api_base": self.url, **fields}

    def bodies(self, path: str = "/api/chat") -> list[dict[str, Any]]:
        return [json.loads(body) for asked, body in self.asked if asked == path]

    def load(self, **options: Any) -> None:
        """Loads the model, as another program would; not counted as a load."""
        self.loads = [options]

    def _noted(self, answer: Callable[[Request], Response], request: Request) -> Response:
        self.asked.append((request.path, request.get_data()))
        return answer(request)

    def _tags(self, _: Request) -> Response:
        model = {"name": self.name, "model": self.name, "digest": self.digest, "size": 1}
        facts = {"context_length": self.listed} if self.listed else {}
        if self.tagged:
            model["capabilities"] = self.tagged
        return _json({"models": [model | {"details": facts, "remote_host": self.remote_host}] if self.has else []})

    def _show(self, _: Request) -> Response:
        if self.shown is None or not self.has:
            return Response("{}", 404 if self.shown else 500)
        info = {"general.architecture": "llama", "llama.context_length": self.shown}
        return _json({"model_info": info, "template": self.template, "capabilities": self.capabilities})

    def _ps(self, _: Request) -> Response:
        row = {"name": self.name, "model": self.name, "size": 1, "digest": self.digest}
        row |= {"expires_at": "2026-11-23T05:14:24.88Z"}
        row |= {"context_length": self.loads[-1].get("num_ctx", 4096)} if self.loads else {}
        return _json({"models": [row] if self.has and self.loads[-1:] != [UNLOADED] else []})

    def _delete(self, _: Request) -> Response:
        there, self.has = self.has, False
        return Response("") if there else _json({"error": "model 'small:1b' not found"}, 404)

    def _pull(self, _: Request) -> Response:
        def lines() -> Iterator[str]:
            for done in range(1, 31):
                self.holds_pull.wait(20)
                self.pulled = done
                yield json.dumps({"status": "pulling", "total": 30, "completed": done}) + "\n"
                time.sleep(self.pace)
            self.has = True
            yield json.dumps({"status": "success"}) + "\n"

        return Response(lines(), content_type="application/x-ndjson")

    def _chat(self, request: Request) -> Response:
        body = json.loads(request.get_data())
        if body.get("think") and "thinking" not in self.capabilities:
            return _json({"error": '"small:1b" does not support thinking'}, 400)
        self._loaded(body)
        most = {"eval_count": min(CHAT["eval_count"], body.get("options", {}).get("num_predict", 3))}
        said = {key: value for key, value in (CHAT | most | self.answer(body)).items() if value is not None}
        kind = "application/x-ndjson" if body.get("stream") else "application/json"
        return Response(json.dumps(said) + "\n", content_type=kind)

    def _generate(self, request: Request) -> Response:
        body = json.loads(request.get_data())
        if body.get("keep_alive") == 0:
            self.loads.append(UNLOADED)
        else:
            self._loaded(body)
        return _json({"model": "small:1b", "response": "", "done": True, "done_reason": "load"})

    def _embed(self, request: Request) -> Response:
        body = json.loads(request.get_data())
        self._loaded(body)
        vectors = [[float(len(text)), 1.0] for text in body["input"]]
        return _json({"model": "small:1b", "embeddings": vectors, "prompt_eval_count": 3 * len(vectors)})

    def _loaded(self, body: dict[str, Any]) -> None:
        wanted = {name: value for name, value in body.get("options", {}).items() if name in _RUNNER}
        if not self.loads or self.loads[-1] != wanted:
            self.loads.append(wanted)


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status, content_type="application/json")


def recording(name: str, *values: Any, ignored: tuple[str, ...] = ()) -> Any:
    """A test case that replays `cassettes/ollama/<name>.yaml`; `ignored` are body fields that may differ."""
    return pytest.param(*values, id=name, marks=pytest.mark.llm_cassette(f"ollama/{name}", ignored=ignored))


@pytest.fixture
def ollama(httpserver: HTTPServer) -> Ollama:
    return Ollama(httpserver)
