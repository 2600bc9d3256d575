"""Is an Ollama model ready: does its server answer, has it the model, is it the one that was meant?"""

from __future__ import annotations

from contextlib import suppress

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import CassetteMissError, LLMError
from testronaut_llm.local.download import is_pinned
from testronaut_llm.local.machine import memory_of_servers
from testronaut_llm.local.memory_fit import check_memory
from testronaut_llm.local.ollama_models import ModelDetails, OllamaModel
from testronaut_llm.local.ollama_provider import OllamaServer
from testronaut_llm.providers.provider_registry import is_local
from testronaut_llm.providers.row import Missing, Present
from testronaut_llm.support.text import is_loopback

_SHOWN: dict[str, ModelDetails] = {}
"""What `/api/show` says, by digest: it never changes."""


def ollama_missing(model: ModelConfig) -> Missing | Present | None:
    """What keeps the model from being asked, or which one it is. One GET; at most a second where nothing answers."""
    try:
        with OllamaServer.of(model) as server:
            found = server.find(model.name)
            absent = None if found or model.auto_pull is True else server.missing(model.name)
            details = _details(server, model, found) if found else ModelDetails()
    except CassetteMissError:
        raise  # a fault of the test, not of the server
    except LLMError as error:
        what, _, mend = str(error).partition("; ")
        return Missing(what, mend)
    if found is None:
        return absent
    thinks = "thinking" in details.capabilities if details.capabilities else None
    return _not_the_one(model, found, server) or Present(found.digest, details.context_length, thinks)


def _details(server: OllamaServer, model: ModelConfig, found: OllamaModel) -> ModelDetails:
    """What its list says of a model; an older server, whose list does not say what is wanted, is asked once."""
    listed = ModelDetails(context_length=found.context_length, capabilities=found.capabilities)
    wants_to_know = model.reasoning not in (None, "off") and not listed.capabilities
    if listed.context_length is not None and not wants_to_know:
        return listed
    if found.digest not in _SHOWN:
        _SHOWN[found.digest] = listed
        with suppress(LLMError):
            _SHOWN[found.digest] = server.show(found.name)
    return _SHOWN[found.digest]


def _not_the_one(model: ModelConfig, found: OllamaModel, server: OllamaServer) -> Missing | None:
    if not is_pinned(found.digest, model.digest):
        pinned = str(model.digest).removeprefix("sha256:")
        return Missing(
            f"{model.name!r} has digest {found.digest[:12]}, and llm.yaml pins {pinned[:12]}",
            f"{server.pull_command(model.name)}, or correct `digest:`",
        )
    if found.remote_host and is_local(model):
        # By its name and address it looked local; only the server knows that it is not.
        return Missing(
            f"{model.name!r} does not run here: Ollama sends its prompts to {found.remote_host}",
            "if that is all right, say so with `local: false` (private tasks then skip it)",
        )
    if is_local(model) and is_loopback(server.url):
        try:
            check_memory(repr(model.name), found.size, memory_of_servers())
        except LLMError as error:
            what, _, mend = str(error).partition("; ")
            return Missing(what, f"{mend}, or say `local: false` where the server is not on this machine")
    return None
