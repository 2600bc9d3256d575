"""Records the cassettes of one provider again, from real servers: `make record PROVIDER=...`.

- `embedded`: llama.cpp on this machine, with the protocols of OpenAI and Anthropic and the URLs of Azure. Needs no
  key.
- `ollama URL=http://127.0.0.1:11434 MODEL=qwen3:8b EMBEDDING_MODEL=nomic-embed-text`: any Ollama server.
- `openai MODEL=... EMBEDDING_MODEL=...`, `anthropic MODEL=...`: with the provider's usual key variable. Costs cents.
  Without EMBEDDING_MODEL, embeddings are left out; Anthropic has none.
- `azure URL=https://... MODEL=<deployment> EMBEDDING_MODEL=<deployment> API_VERSION=v1`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from testronaut_llm.errors import LLMError
from testronaut_llm.local.model_downloader import fetch
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.local.ollama_provider import OllamaServer
from testronaut_llm.support import paths

ROOT = Path(__file__).parents[1]
EMBEDDED = ("llama.cpp-openai", "llama.cpp-anthropic", "llama.cpp-azure-classic", "llama.cpp-azure-v1")
SMOLLM = "smollm2-135m"
CLOUD = {
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "anthropic": ("https://api.anthropic.com", "ANTHROPIC_API_KEY"),
    "azure": ("", "AZURE_API_KEY"),
}


def main(provider: str) -> int:
    """Records, replays the recordings, and searches them for secrets."""
    try:
        settings = _settings(provider)
    except LLMError as error:
        print(f"record: {error}", file=sys.stderr)
        return 2
    print(f"record: {settings['RECORD_WIRES']}")
    chosen = "same_weights or " * (provider == "embedded") + " or ".join(settings["RECORD_WIRES"].split())
    recorded = _pytest(["tests/gateway/test_wires.py", "--llm-record=refresh", "-k", chosen], settings)
    if recorded:
        print("record: a failing test keeps its old cassette; fix the test and record again", file=sys.stderr)
        return recorded
    print("record: replaying what was recorded, without the server")
    return _pytest(["tests/gateway/test_wires.py", "tests/testing/test_scan.py"], {})


def _settings(provider: str) -> dict[str, str]:
    given = os.environ
    if provider == "embedded":
        store = ModelStore(paths.data_dir() / "models")
        if store.find(SMOLLM) is None:
            print("record: fetching SmolLM2-135M-Instruct (93 MB)")
            fetch(SMOLLM, store=store)
        return {"RECORD_WIRES": " ".join(EMBEDDED), "RECORD_MODELS": str(store.folder)}
    if provider == "ollama":
        return _ollama(given.get("URL", "http://127.0.0.1:11434"), _needed("MODEL"), given.get("EMBEDDING_MODEL", ""))
    if provider not in CLOUD:
        raise LLMError(f"no such PROVIDER: {provider!r}; expected embedded, ollama, {', '.join(CLOUD)}")
    base, key = CLOUD[provider]
    return {
        "RECORD_WIRES": provider,
        "RECORD_URL": given.get("URL", base) or _needed("URL"),
        "RECORD_KEY": _needed(key),
        "RECORD_MODEL": _needed("MODEL"),
        "RECORD_EMBEDDING_MODEL": given.get("EMBEDDING_MODEL", ""),
        "RECORD_API_VERSION": given.get("API_VERSION", "v1") if provider == "azure" else "",
    }


def _ollama(url: str, model: str, embedding_model: str) -> dict[str, str]:
    with OllamaServer(url) as server:
        version = server.version()
        for name in filter(None, (model, embedding_model)):
            if server.find(name) is None:
                raise LLMError(f"the Ollama at {url} has no model {name!r}; run: ollama pull {name}")
    return {
        "RECORD_WIRES": "ollama",
        "RECORD_URL": url,
        "RECORD_KEY": "ollama-checks-no-key",
        "RECORD_MODEL": model,
        "RECORD_EMBEDDING_MODEL": embedding_model,
        "RECORD_SERVER": version,
    }


def _needed(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise LLMError(f"{name} is not set; for example: make record PROVIDER=... {name}=...")
    return value


def _pytest(arguments: list[str], settings: dict[str, str]) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "embedded"))
