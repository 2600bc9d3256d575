"""What an Ollama server says of its models, with the fields that are absent on older servers left empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


class _Said:
    """A dataclass that is filled from what a server said; what is unknown, null or of another type is left out."""

    @classmethod
    def all(cls, said: Any) -> tuple[Self, ...]:
        """Reads the rows of `/api/tags` or `/api/ps`."""
        return tuple(cls.of(one) for one in said if isinstance(one, dict)) if isinstance(said, list) else ()

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """Reads a row of `/api/tags` or `/api/ps`, the answer of `/api/show`, or a step of a pull."""
        details, info = (one if isinstance(one := said.get(name), dict) else {} for name in ("details", "model_info"))
        abilities = said.get("capabilities")
        about = f"{info.get('general.architecture', '')}."
        known = {
            **details,
            **said,
            **{name.removeprefix(about): value for name, value in info.items()},
            "name": said.get("model") or said.get("name"),
            "quantization": details.get("quantization_level"),
            "capabilities": tuple(map(str, abilities)) if isinstance(abilities, list) else (),
            "until": said.get("expires_at"),
        }
        kinds = {one.name: int if one.default is None else type(one.default) for one in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: known[name] for name, kind in kinds.items() if type(known.get(name)) is kind})


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
    digest: str = ""
    size: int = 0
    size_vram: int = 0
    context_length: int | None = None
    until: str = ""


@dataclass(frozen=True, kw_only=True)
class PullStep(_Said):
    """How far a pull is: bytes of the layer that it is at, or the error that ended it."""

    status: str = ""
    total: int | None = None
    completed: int = 0
    error: str = ""
