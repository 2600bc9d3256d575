"""Ollama's management side: is it up, which models has it, what are they. Chat goes through the gateway.

Reads are plain GETs and POSTs of our own, since the `ollama` client drops what matters here: the
context length, the capabilities and the remote host of a model that does not run on this machine.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.ollama_models import LoadedModel, ModelDetails, OllamaModel
from testronaut_llm.model_config import ModelConfig
from testronaut_llm.provider_registry import api_base_of, provider_of
from testronaut_llm.providers.credentials import resolve_key
from testronaut_llm.providers.endpoint import is_loopback
from testronaut_llm.support.redaction import Redactor

if TYPE_CHECKING:
    import httpx
    from ollama import ChatResponse, Client
    from pydantic import SecretStr


T = TypeVar("T")

_CONNECT = 1.0
_ANSWER = 10.0
_LOADING = 600.0


class OllamaServer:
    """One Ollama server. A context manager; opens its connection at the first question.

    Each question raises `LocalModelError` where no Ollama answers, or where it has not the model that is asked for; the
    message names the command that mends it. The `key` is sent as a bearer token, for a server behind a proxy or
    ollama.com.
    """

    def __init__(self, url: str, *, key: SecretStr | None = None) -> None:
        self.url = url
        self._key = key
        self._redactor = Redactor()
        if key is not None:
            self._redactor.add(key.get_secret_value())
        self._http: httpx.Client | None = None

    @classmethod
    def of(cls, model: ModelConfig | None = None, *, trusted: bool = True) -> OllamaServer:
        """The server that a model's row names; without one, the usual server.

        Raises:
            MissingCredentialError: its key cannot be had, or may not be sent there.
        """
        model = model or ModelConfig(alias="ollama", model="ollama/any")
        provider = provider_of(model)
        return cls(api_base_of(model, provider) or "", key=resolve_key(model, provider, trusted=trusted))

    def __enter__(self) -> OllamaServer:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def redact(self, text: str) -> str:
        """Returns a text of the server's without the key, which it may repeat."""
        return self._redactor.redact(text)

    def close(self) -> None:
        """Ends the connection."""
        if self._http:
            self._http.close()
            self._http = None

    def version(self) -> str:
        """What the server calls itself."""
        return str(self._ask("GET", "/api/version").get("version", ""))

    def models(self) -> tuple[OllamaModel, ...]:
        """The models that it has."""
        return tuple(map(OllamaModel.of, self._ask("GET", "/api/tags").get("models") or ()))

    def find(self, name: str) -> OllamaModel | None:
        """The model of that name, `:latest` implied; None where it is not pulled."""
        wanted = full_name(name).lower()
        return next((model for model in self.models() if full_name(model.name).lower() == wanted), None)

    def loaded(self) -> tuple[LoadedModel, ...]:
        """The models in its memory."""
        return tuple(map(LoadedModel.of, self._ask("GET", "/api/ps").get("models") or ()))

    def show(self, name: str) -> ModelDetails:
        """What a model is and can do."""
        return ModelDetails.of(self._ask("POST", "/api/show", {"model": name}))

    def remove(self, name: str) -> None:
        """Deletes a model."""
        self._act(name, lambda client: client.delete(name))

    def load(self, name: str, *, keep_alive: str | int | None = None, num_ctx: int | None = None) -> None:
        """Brings a model into memory, so that the first answer does not wait for it. May take minutes.

        `keep_alive` is how long it stays (`10m`, seconds, negative for ever), `num_ctx` its context in tokens; without
        them the server decides.
        """
        options = None if num_ctx is None else {"num_ctx": num_ctx}
        self._act(name, lambda client: client.generate(name, keep_alive=keep_alive, options=options))

    def timed_chat(self, name: str, prompt: str, *, answer_tokens: int, num_ctx: int | None = None) -> ChatResponse:
        """One answer at temperature 0, with the server's own counts and durations (nanoseconds)."""
        options = {"num_predict": answer_tokens, "temperature": 0, **({"num_ctx": num_ctx} if num_ctx else {})}
        messages = [{"role": "user", "content": prompt}]
        return self._act(name, lambda client: client.chat(name, messages=messages, options=options))

    def unload(self, name: str) -> None:
        """Takes a model out of memory."""
        self.load(name, keep_alive=0)

    def client(self, *, silence: float | None = None) -> Client:
        """The `ollama` library's client with the same care: no redirects, no proxy on loopback, our key only.

        It gives up after `silence` seconds without a byte; None waits for ever.
        """
        from ollama import Client

        return Client(self.url, **self._options(silence))

    def _act(self, name: str, action: Callable[[Client], T]) -> T:
        import httpx
        from ollama import ResponseError

        try:
            with self.client(silence=_LOADING) as client:
                return action(client)
        except ResponseError as error:
            said = (
                not_pulled(name) if error.status_code == 404 else f"Ollama refused {name!r}: {self.redact(error.error)}"
            )
            raise LocalModelError(said, status=error.status_code) from None
        except (ConnectionError, httpx.HTTPError) as error:
            raise unreachable(self.url, error) from None

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        import httpx

        if self._http is None:
            self._http = httpx.Client(base_url=self.url, **self._options(_ANSWER))
        try:
            response = self._http.request(method, path, json=body)
            answer = response.json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise unreachable(self.url, error) from None
        except ValueError:
            answer = None
        if response.status_code == 404 and body:
            raise LocalModelError(not_pulled(str(body["model"])), status=404)
        if response.status_code != 200 or not isinstance(answer, dict):
            said = self.redact(str(answer.get("error", ""))) if isinstance(answer, dict) else ""
            raise LocalModelError(
                f"the server at {self.url} does not answer {path} like Ollama (status {response.status_code}"
                f"{': ' + said[:200] if said else ''}); check api_base, or update Ollama",
                status=response.status_code,
            )
        return answer

    def _options(self, silence: float | None) -> dict[str, Any]:
        import httpx

        options: dict[str, Any] = {"timeout": httpx.Timeout(silence, connect=_CONNECT), "auth": _bearer(self._key)}
        options |= {"follow_redirects": False, "trust_env": not is_loopback(self.url)}
        if self.url.startswith("http:"):
            options["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used: saves reading the CA file
        return options


def full_name(name: str) -> str:
    """The name with its tag: `qwen3` is `qwen3:latest`."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def not_pulled(name: str) -> str:
    """The message for a model that the server does not have."""
    return f"Ollama has no model {name!r}; run: ollama pull {name}"


def unreachable(url: str, error: Exception) -> LocalModelError:
    """The error for a server that does not answer at all."""
    return LocalModelError(
        f"no Ollama answers at {url} ({type(error).__name__}); is `ollama serve` running? "
        f"Where it is: `api_base:`, OLLAMA_API_BASE or OLLAMA_HOST"
    )


def _bearer(key: SecretStr | None) -> Callable[[httpx.Request], httpx.Request]:
    """Sets our key and no other: the `ollama` client would send OLLAMA_API_KEY to any host."""

    def authorise(request: httpx.Request) -> httpx.Request:
        request.headers.pop("authorization", None)
        if key is not None:
            request.headers["authorization"] = f"Bearer {key.get_secret_value()}"
        return request

    return authorise
