"""What an Ollama server says of its models, with the fields that are absent on older servers left empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaModel:
    """One model that a server has. `size` is bytes, `context_length` tokens.

    `remote_host` answers for it when it is not this server; empty for a model that runs here.
    """

    name: str
    digest: str
    size: int
    parameter_size: str
    quantization: str
    context_length: int | None
    capabilities: tuple[str, ...]
    remote_host: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> OllamaModel:
        """Reads a row of `/api/tags`."""
        details = row.get("details") or {}
        return cls(
            name=row.get("model") or row.get("name") or "",
            digest=row.get("digest") or "",
            size=row.get("size") or 0,
            parameter_size=details.get("parameter_size") or "",
            quantization=details.get("quantization_level") or "",
            context_length=details.get("context_length"),
            capabilities=tuple(row.get("capabilities") or ()),
            remote_host=row.get("remote_host") or "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDetails:
    """What `show` says of a model. The lengths are tokens and vector dimensions."""

    context_length: int | None
    embedding_length: int | None
    capabilities: tuple[str, ...]
    template: str
    remote_host: str

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> ModelDetails:
        """Reads the answer of `/api/show`."""
        info = answer.get("model_info") or {}
        architecture = info.get("general.architecture", "")
        return cls(
            context_length=info.get(f"{architecture}.context_length"),
            embedding_length=info.get(f"{architecture}.embedding_length"),
            capabilities=tuple(answer.get("capabilities") or ()),
            template=answer.get("template") or "",
            remote_host=answer.get("remote_host") or "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model in the server's memory. Sizes are bytes, `context_length` tokens, `until` an ISO time."""

    name: str
    size: int
    size_vram: int
    context_length: int | None
    until: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> LoadedModel:
        """Reads a row of `/api/ps`."""
        return cls(
            name=row.get("model") or row.get("name") or "",
            size=row.get("size") or 0,
            size_vram=row.get("size_vram") or 0,
            context_length=row.get("context_length"),
            until=row.get("expires_at") or "",
        )
