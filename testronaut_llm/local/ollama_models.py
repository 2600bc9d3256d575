"""What an Ollama server says of its models, with the fields that are absent on older servers left empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


class _Said:
    """A dataclass that is filled from what a server said: unknown fields are dropped, null ones keep their default."""

    @classmethod
    def _from(cls, said: Mapping[str, Any]) -> Self:
        return cls(**{one.name: said[one.name] for one in fields(cls) if said.get(one.name)})  # type: ignore[arg-type]


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

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Reads a row of `/api/tags`."""
        details = row.get("details") or {}
        return cls._from({**details, **row, "quantization": details.get("quantization_level"), **_told(row)})


@dataclass(frozen=True, kw_only=True)
class ModelDetails(_Said):
    """What `show` says of a model. The lengths are tokens and vector dimensions."""

    context_length: int | None = None
    embedding_length: int | None = None
    capabilities: tuple[str, ...] = ()
    template: str = ""
    remote_host: str = ""

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        """Reads the answer of `/api/show`."""
        info = answer.get("model_info") or {}
        about = f"{info.get('general.architecture', '')}."
        lengths = {name.removeprefix(about): value for name, value in info.items() if name.startswith(about)}
        return cls._from({**answer, **lengths, **_told(answer)})


@dataclass(frozen=True, kw_only=True)
class LoadedModel(_Said):
    """A model in the server's memory. Sizes are bytes, `context_length` tokens, `until` an ISO time."""

    name: str = ""
    size: int = 0
    size_vram: int = 0
    context_length: int | None = None
    until: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Reads a row of `/api/ps`."""
        return cls._from({**row, "until": row.get("expires_at"), **_told(row)})


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": row.get("model") or row.get("name"), "capabilities": tuple(row.get("capabilities") or ())}
