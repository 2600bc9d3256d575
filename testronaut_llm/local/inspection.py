"""What the disk or the server says of a local model: the bytes and the template it should have? No prompt is sent."""

from __future__ import annotations

from typing import Literal

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.download import is_pinned, pull_again, sha256_of
from testronaut_llm.local.gguf_header import read_header
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.local.ollama_provider import OllamaServer
from testronaut_llm.providers.provider_registry import provider_of, pull_command

Outcome = Literal["pass", "fail", "skipped"]
Found = tuple[Outcome, str]

NO_TEMPLATE = (
    "{what}: it gets its prompts without the marks it was trained on, and talks nonsense; take one that was packed "
    "with its template (testronaut-llm models pull ollama/hf.co/<owner>/<repository>:<quantisation>), or give it one "
    "in a Modelfile"
)


def digest(model: ModelConfig) -> Found:
    """Are the bytes those that were fetched, and that `digest:` asks for? Raises LocalModelError: it is not here."""
    if provider_of(model).name == "ollama":
        with OllamaServer.of(model) as server:
            found = server.find(model.name)
            if found is None:
                raise server.not_pulled(model.name)
        return _pinned(model, found.digest, "Ollama has checked it when it was pulled")
    stored = ModelStore().get(model.name)
    if stored is None:
        raise LocalModelError(f"it is not on this machine; {pull_command(model)}")
    really = sha256_of(ModelStore().path(model.name))
    if really != stored.sha256:
        again = pull_again(model.name)
        return "fail", f"the file has sha256 {really[:12]}, and had {stored.sha256[:12]} when it was stored; {again}"
    return _pinned(model, really, "as it was when it was stored")


def template(model: ModelConfig) -> Found:
    """Does the model say how a conversation is put to it? Raises LocalModelError: it is not here, or damaged."""
    if provider_of(model).name == "ollama":
        with OllamaServer.of(model) as server:
            return ollama_template(server, model.name)
    path = ModelStore().find(model.name)
    if path is None:
        return "skipped", "it is not on this machine"
    header = read_header(path)
    if header.pooling is not None:
        return "skipped", "it makes vectors, no text"
    if header.has_template:
        return "pass", "in the file"
    return "fail", "the file has none, and llama.cpp guesses one; look for a GGUF of the same model that has it"


def ollama_template(server: OllamaServer, name: str) -> Found:
    """The same of a model on a server. Raises LocalModelError: it is not there, or no Ollama answers."""
    details = server.show(name)
    if details.capabilities and "completion" not in details.capabilities:
        return "skipped", "it makes vectors, no text"
    text = "".join(details.template.split())
    if text in ("", "{{.Prompt}}"):
        return "fail", NO_TEMPLATE.format(what="its template is empty" if not text else "its template is {{ .Prompt }}")
    return "pass", f"of {len(details.template):,} characters"


def makes_vectors(model: ModelConfig) -> bool:
    """Is it for embeddings, not for text? Raises LocalModelError: it is not here, or damaged."""
    if provider_of(model).name == "ollama":
        with OllamaServer.of(model) as server:
            return server.makes_vectors(model.name)
    return read_header(ModelStore().path(model.name)).pooling is not None


def _pinned(model: ModelConfig, digest: str, otherwise: str) -> Found:
    wanted = (model.digest or "").removeprefix("sha256:")
    if not is_pinned(digest, model.digest):
        return "fail", f"it has {digest[:12]}, and llm.yaml pins {wanted[:12]}; correct `digest:`, or pull it again"
    return "pass", f"{digest[:12]}, as llm.yaml pins it" if wanted else f"{digest[:12]}, {otherwise}"
