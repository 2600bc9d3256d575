"""A host program notices nothing of this package but its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import faults
from manager_kit import KEY, apis, model

DOCUMENTED = {
    "LITELLM_LOCAL_MODEL_COST_MAP",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS",
    "LITELLM_MODE",
    "DISABLE_AIOHTTP_TRANSPORT",
    "TIKTOKEN_CACHE_DIR",
}

HOST = """
import json, os, sys, logging, threading
before, root = dict(os.environ), list(logging.getLogger().handlers)
import asyncio
loops = []
new_loop = asyncio.events.new_event_loop
asyncio.events.new_event_loop = lambda: loops.append(1) or new_loop()
from testronaut_llm import LLMError, LLMManager
assert "litellm" not in sys.modules
with LLMManager("llm.yaml") as llm:
    assert "litellm" not in sys.modules
    print(llm.complete("t", "hi").text, file=sys.stderr)
    try:
        llm.complete("t", "hi", model="bad")
    except LLMError as error:
        print(type(error).__name__, file=sys.stderr)
    try:
        list(llm.stream("t", "hi", model="gone"))
    except LLMError as error:
        print(type(error).__name__, file=sys.stderr)
assert loops == []  # LiteLLM would make one at each call, for nothing
assert list(logging.getLogger().handlers) == root
assert not [thread for thread in threading.enumerate() if thread.name.startswith("litellm")]
changed = {name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)}
print(json.dumps(sorted(changed)), file=sys.stderr)
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program in a folder, with keys in its environment."""
    keys = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY"), KEY)
    environment = {**os.environ, **keys, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-B", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


def test_a_host_program_stays_as_it_was(tmp_path: Path) -> None:
    """Its stdout stays empty, `.env` unread, the environment as it was but for the documented switches (P16, P17)."""
    (tmp_path / ".env").write_text("LEAKED_FROM_DOTENV=yes\nOPENAI_BASE_URL=http://192.0.2.1\n")
    with apis() as api:
        good, bad = api("good", faults.good("fine")), api("bad", faults.error("server_error"))
        gone = model("ollama", good, model="ollama/no-such")
        models = {"good": model("openai", good), "bad": model("anthropic", bad), "gone": gone}
        tasks = {"t": {"models": ["good"], "cache": "off", "retries": 0}}
        (tmp_path / "llm.yaml").write_text(json.dumps({"models": models, "tasks": tasks}))
        done = run(tmp_path, "-W", "error::ResourceWarning", "-c", HOST)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    said = done.stderr.splitlines()
    assert said[:3] == ["fine", "AllModelsFailedError", "NoReadyModelError"]
    assert set(json.loads(said[3])) <= DOCUMENTED
    assert len(said) == 4


IMPORT = """
import email.message, importlib.metadata, socket, sys
opened = []
def hook(event, args):
    if event.startswith("socket.") or event == "subprocess.Popen":
        opened.append(event)
    elif event == "open" and "site-packages" not in str(args[0]) and "/lib/python" not in str(args[0]):
        opened.append(str(args[0]))
sys.addaudithook(hook)
import testronaut_llm
package = testronaut_llm.__path__[0]
slow = ("litellm", "openai", "anthropic", "tokencost", "tiktoken", "vcr", "xllamacpp")
found = [name for name in slow if name in sys.modules]
found += [one for one in opened if not (one.startswith(package) and one.endswith((".py", ".pyc")))]
raise SystemExit(repr(found) if found else 0)
"""


def test_importing_loads_and_opens_nothing(tmp_path: Path) -> None:
    """`import testronaut_llm` loads no LiteLLM, opens no socket and no file but modules, and prints nothing (P01)."""
    done = run(tmp_path, "-c", IMPORT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
