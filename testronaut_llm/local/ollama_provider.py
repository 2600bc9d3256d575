"""The client of an Ollama server's management side. Chat goes through the gateway."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from pydantic import TypeAdapter

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LLMError, LocalModelError
from testronaut_llm.local.download import Progress
from testronaut_llm.providers.credentials import resolve_key
from testronaut_llm.providers.network import client_settings
from testronaut_llm.providers.provider import endpoint_of, pull_command, url_problem
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.support.text import closest
from testronaut_llm.telemetry.redaction import Redactor

if TYPE_CHECKING:
    import httpx
    from pydantic import SecretStr

_IMPLIED = re.compile(r"^(\w+://)?(registry\.ollama\.ai/(?=[^/]+/))?(library/(?=[^/]+$))?")
"""Parts of a model's name that Ollama adds."""
_OBJECT = TypeAdapter(dict[str, Any])
_CONNECT, _ANSWER, _LOADING = 1.0, 10.0, 600.0
"""Seconds: to connect, for an answer, and for an answer that may load a model first."""


@dataclass(frozen=True, kw_only=True)
class OllamaModel:
    """Facts from a server about one model, in bytes and tokens. `remote_host` is set if another host runs it.

    It is unloaded at the ISO time `until`.
    """

    name: str = ""
    digest: str = ""
    size: int = 0
    parameter_size: str = ""
    quantization: str = ""
    context_length: int | None = None
    capabilities: tuple[str, ...] = ()
    remote_host: str = ""
    template: str = ""
    until: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Reads a row of `/api/tags` or `/api/ps`, or an answer of `/api/show`; ignores values of a wrong type."""
        details, info = (one if isinstance(one := row.get(name), dict) else {} for name in ("details", "model_info"))
        capabilities, prefix = row.get("capabilities"), f"{info.get('general.architecture', '')}."
        known = {
            **details,
            **row,
            **{name.removeprefix(prefix): value for name, value in info.items()},
            "name": row.get("model") or row.get("name"),
            "quantization": details.get("quantization_level"),
            "capabilities": tuple(map(str, capabilities)) if isinstance(capabilities, list) else (),
            "until": row.get("expires_at"),
        }
        kinds = {one.name: int if one.default is None else type(one.default) for one in fields(cls)}
        return cls(**{name: known[name] for name, kind in kinds.items() if type(known.get(name)) is kind})


class PullBrokenError(Exception):
    """A pull ended before it was done. Its cause is a LocalModelError if no Ollama answered."""


class OllamaServer:
    """One Ollama server; a context manager. The `key` is for ollama.com, or for a server behind a proxy.

    Requests raise `LocalModelError` if no Ollama answers or the model is missing, and `ConnectionFailedError` if a
    proxy variable cannot be used.
    """

    def __init__(self, url: str, *, key: SecretStr | None = None, row: ModelConfig | None = None) -> None:
        import httpx

        from testronaut_llm.support.http_body import bounded

        self.url, self._row, self._redactor = url, row, Redactor()
        headers = {"accept-encoding": "identity"}
        if key is not None:
            self._redactor.add(key.get_secret_value())
            headers["authorization"] = f"Bearer {key.get_secret_value()}"
        # No redirects, no proxy on loopback, only our key, and a bound on the body.
        settings = client_settings(url) | {"event_hooks": {"response": [bounded]}}
        self._http = httpx.Client(base_url=url, headers=headers, **settings)

    @classmethod
    def of(cls, model: ModelConfig | None = None) -> OllamaServer:
        """Returns the server of a model's row, or the default server.

        Raises MissingCredentialError if its key cannot be read, or may not be sent there.
        """
        row, model = model, model or ModelConfig(alias="ollama", model="ollama/any")
        provider = provider_of(model)
        base = endpoint_of(model, provider)
        if problem := url_problem(base.url or ""):
            expected = "expected a URL such as http://127.0.0.1:11434"
            raise LocalModelError(f"the endpoint of {base.source} {problem}; {expected}")
        return cls(base.url or "", key=resolve_key(model, provider), row=row)

    def __enter__(self) -> OllamaServer:
        return self

    def __exit__(self, *failure: object) -> None:
        self._http.close()

    def models(self) -> tuple[OllamaModel, ...]:
        """Returns the models that are pulled."""
        return self._rows("/api/tags")

    def loaded(self) -> tuple[OllamaModel, ...]:
        """Returns the models in memory, each with the context it was loaded with."""
        return self._rows("/api/ps")

    def find(self, name: str, *, loaded: bool = False) -> OllamaModel | None:
        """Returns a pulled model (or one in memory), by its name in any form of Ollama; None if missing."""
        rows = self.loaded() if loaded else self.models()
        return next((row for row in rows if full_name(row.name) == full_name(name)), None)

    def pulled(self, name: str) -> OllamaModel:
        """Returns a pulled model. Raises LocalModelError if it is missing."""
        if (found := self.find(name)) is None:
            raise self._not_pulled(name)
        return found

    def show(self, name: str) -> OllamaModel:
        """Returns the details of a model: its template, its capabilities, and its context length."""
        return OllamaModel.of(self._ask("/api/show", {"model": name}))

    def remove(self, name: str) -> None:
        """Deletes a model."""
        self._ask("/api/delete", {"model": name}, method="DELETE")

    def abilities(self, found: OllamaModel) -> tuple[str, ...]:
        """Returns the capabilities from the list and `show`, which may differ; empty for an older server."""
        with suppress(LocalModelError):
            return found.capabilities + self.show(found.name).capabilities
        return found.capabilities

    def load(
        self,
        name: str,
        *,
        vectors: bool = False,
        keep_alive: str | int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Loads a chat or an embedding model into memory, with the `options` that calls send; may take minutes.

        It stays for `keep_alive` (`10m`, seconds, negative: without end); 0 unloads it.
        """
        body: dict[str, Any] = {"model": name, **({"input": []} if vectors else {"stream": False})}
        body |= {} if keep_alive is None else {"keep_alive": keep_alive}
        body |= {"options": dict(options)} if options else {}
        self._ask("/api/embed" if vectors else "/api/generate", body, silence=_LOADING)

    def pulling(self, name: str, *, silence: float) -> Generator[Progress]:
        """Yields the progress of a pull; the last note of a complete one is `success`. Raises PullBrokenError."""
        import httpx

        body, timeout = {"model": name, "stream": True}, httpx.Timeout(silence, connect=_CONNECT)
        try:
            with self._http.stream("POST", "/api/pull", json=body, timeout=timeout) as response:
                if not response.is_success:
                    raise PullBrokenError(f"answered status {response.status_code} {self._read(response)[1]}".strip())
                for line in filter(str.strip, response.iter_lines()):
                    row = _OBJECT.validate_json(line)
                    if "error" in row:
                        raise PullBrokenError(self._redactor.redact(str(row["error"])))
                    done, total = (one if type(one := row.get(key)) is int else None for key in ("completed", "total"))
                    yield Progress(note=self._redactor.redact(str(row.get("status", ""))), done=done or 0, total=total)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise PullBrokenError("Ollama cannot be reached any more") from self._unreachable(error)
        except httpx.TimeoutException:
            raise PullBrokenError(f"the server sent nothing for {silence:g} seconds") from None
        except (httpx.HTTPError, ValueError) as error:
            raise PullBrokenError(f"the connection to Ollama broke ({type(error).__name__})") from None

    def pull_command(self, name: str) -> str:
        """Returns the command that fetches a model to this server."""
        return pull_command(self._row or ModelConfig(alias="", model=f"ollama/{name}"))

    def _unreachable(self, error: Exception) -> LocalModelError:
        ask = "is `ollama serve` running? Where it is: `api_base:`, OLLAMA_API_BASE or OLLAMA_HOST"
        return LocalModelError(f"no Ollama answers at {self.url} ({type(error).__name__}); {ask}")

    def _not_pulled(self, name: str) -> LocalModelError:
        """Returns the error for a model that the server does not have; it names the closest one that it has."""
        there: list[str] = []
        with suppress(LLMError):
            there = [one.name for one in self.models()]
        kin = [one for one in there if full_name(one).rpartition(":")[0] == full_name(name).rpartition(":")[0]]
        near = closest(full_name(name), kin) or next(iter(kin), closest(full_name(name), there))
        hint = f" (did you mean {near!r}?)" if near else ""
        return LocalModelError(f"Ollama has no model {name!r}{hint}; run: {self.pull_command(name)}", status=404)

    def _rows(self, path: str) -> tuple[OllamaModel, ...]:
        rows = self._ask(path).get("models")
        return tuple(OllamaModel.of(one) for one in rows if isinstance(one, dict)) if isinstance(rows, list) else ()

    def _ask(
        self, path: str, body: Mapping[str, Any] | None = None, *, method: str = "POST", silence: float = _ANSWER
    ) -> Mapping[str, Any]:
        """Returns the answer to a request, a GET if it has no `body`; fails after `silence` seconds without a byte."""
        import httpx

        from testronaut_llm.support.http_body import BodyError

        answer, words, timeout = None, "", httpx.Timeout(silence, connect=_CONNECT)
        try:
            with self._http.stream(method if body else "GET", path, json=body, timeout=timeout) as response:
                status = response.status_code
                answer, words = self._read(response)
        except BodyError as error:
            words = str(error)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None
        if status == 200 and answer is not None:
            return answer
        if body and status == 404:
            raise self._not_pulled(str(body["model"]))
        if body and status != 200:
            raise LocalModelError(f"Ollama refused {body['model']!r}: {words or f'status {status}'}", status=status)
        said = f"(status {status}{': ' + words if words else ''}); check api_base, or update Ollama"
        raise LocalModelError(f"the server at {self.url} does not answer {path} like Ollama {said}", status=status)

    def _read(self, response: httpx.Response) -> tuple[Mapping[str, Any] | None, str]:
        """Returns the object that was answered, or None, and the words of an error."""
        try:
            answer = _OBJECT.validate_json(response.read() or b"{}")
        except ValueError:
            return None, ""
        return answer, self._redactor.redact(str(answer.get("error", "")))[:200]


def full_name(name: str) -> str:
    """Returns a name as Ollama compares it: `Qwen3` and `registry.ollama.ai/library/qwen3` are `qwen3:latest`."""
    name = _IMPLIED.sub("", name.lower())
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
