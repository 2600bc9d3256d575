"""A host program gets answers from this package, and no side effects."""

from __future__ import annotations

import json
import os
from pathlib import Path

import faults
from manager_kit import KEY, apis, model, program

DOCUMENTED = {
    "LITELLM_LOCAL_MODEL_COST_MAP",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS",
    "LITELLM_MODE",
    "DISABLE_AIOHTTP_TRANSPORT",
    "TIKTOKEN_CACHE_DIR",
}

HOST = """
import asyncio, email.message, importlib.metadata, json, logging, os, socket, sys, threading
before, root = dict(os.environ), list(logging.getLogger().handlers)
from testronaut_llm import LLMError, LLMManager
loops = []
new_loop = asyncio.events.new_event_loop
asyncio.events.new_event_loop = lambda: loops.append(1) or new_loop()
with LLMManager("llm.yaml") as llm:
    assert "litellm" not in sys.modules
    print(llm.complete("t", "hi").text, file=sys.stderr)
    for model in ("bad", "gone"):
        try:
            list(llm.stream("t", "hi", model=model))
        except LLMError as error:
            print(type(error).__name__, file=sys.stderr)
assert loops == []  # LiteLLM would make one at each call, for nothing
assert list(logging.getLogger().handlers) == root
assert not [thread for thread in threading.enumerate() if thread.name.startswith("litellm")]
assert "opentelemetry" not in sys.modules
changed = {name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)}
print(json.dumps(sorted(changed)), file=sys.stderr)
"""


def test_a_host_program_stays_as_it_was(tmp_path: Path) -> None:
    """Stdout is empty, `.env` unread, and the environment unchanged but for the documented switches (P16, P17)."""
    (tmp_path / ".env").write_text("LEAKED_FROM_DOTENV=yes\nOPENAI_BASE_URL=http://192.0.2.1\n")
    with apis() as api:
        good, bad = api("good", faults.good("fine")), api("bad", faults.error("server_error"))
        gone = model("ollama", good, model="ollama/no-such")
        models = {"good": model("openai", good), "bad": model("anthropic", bad), "gone": gone}
        tasks = {"t": {"models": ["good"], "cache": "off", "retries": 0}}
        (tmp_path / "llm.yaml").write_text(json.dumps({"models": models, "tasks": tasks}))
        keys = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY"), KEY)
        env = {**os.environ, **keys, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = program("-B", "-W", "error::ResourceWarning", "-c", HOST, cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    said = done.stderr.splitlines()
    assert said[:3] == ["fine", "AllModelsFailedError", "NoReadyModelError"]
    assert set(json.loads(said[3])) <= DOCUMENTED
    assert len(said) == 4
