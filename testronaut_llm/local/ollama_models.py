"""What an Ollama server says of its models, with the fields that are absent on older servers left empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


class _Said:
    """A dataclass that is filled from what a server said: unknown fields are dropped, null ones keep their default."""

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """Reads a row of `/api/tags` or `/api/ps`, or the answer of `/api/show`."""
        details, info = said.get("details") or {}, said.get("model_info") or {}
        about = f"{info.get('general.architecture', '')}."
        known = {
            **details,
            **said,
            **{name.removeprefix(about): value for name, value in info.items()},
            "name": said.get("model") or said.get("name"),
            "quantization": details.get("quantization_level"),
            "capabilities": tuple(said.get("capabilities") or ()),
            "until": said.get("expires_at"),
        }
        return cls(**{one.name: known[one.name] for one in fields(cls) if known.get(one.name)})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class OllamaModel(_Said):
    """One model that a server has. `size` is bytes, `context_length` tokens.

    `remote_host` answers for it when it is not this server; empty for a model that runs here.
    """

    name: str = ""
    digest: str = ""
    size: int = 0
    parameter_size: str = ""
    quantization: str = ""
    context_length: int | None = None
    capabilities: tuple[str, ...] = ()
    remote_host: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelDetails(_Said):
    """What `show` says of a model. The lengths are tokens and vector dimensions."""

    context_length: int | None = None
    embedding_length: int | None = None
    capabilities: tuple[str, ...] = ()
    template: str = ""


@dataclass(frozen=True, kw_only=True)
class LoadedModel(_Said):
    """A model in the server's memory. Sizes are bytes, `context_length` tokens, `until` an ISO time."""

    name: str = ""
    size: int = 0
    size_vram: int = 0
    context_length: int | None = None
    until: str = ""
