"""How the fields of `extra` reach the body of a request: never as an argument that LiteLLM takes for its own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from testronaut_llm.config.faults import shown
from testronaut_llm.config.local_options import OTHER_FIELDS, refused_options
from testronaut_llm.support.owned_fields import refused_in_extra
from testronaut_llm.support.text import did_you_mean

if TYPE_CHECKING:
    from testronaut_llm.providers.row import Provider


def refused(extra: Mapping[str, Any], provider: Provider, *, embedding: bool = False) -> str | None:
    """Returns what is wrong with the first field that cannot be sent to this provider; None if all can be."""
    if provider.name in OTHER_FIELDS:
        wrong = chain(refused_in_extra(extra), refused_options(provider.name, extra, embedding=embedding))
        return next((f"extra holds {shown('.'.join(place))}: {why}" for place, why in wrong), None)
    known = provider.embedding_extra if embedding else provider.extra
    unknown = next((name for name in extra if known is not None and name not in known), None)
    if unknown is None:
        return None
    if not known:
        return f"extra holds {shown(unknown)}, and LiteLLM has no way to send further body fields to {provider.name}"
    return f"extra holds {shown(unknown)}, no body field of {provider.name}{did_you_mean(unknown, known)}"


def arguments(body: Mapping[str, Any], provider: Provider, *, embedding: bool = False) -> dict[str, Any]:
    """Returns the arguments with which LiteLLM puts these fields into the body of a request.

    That is `extra_body`. Anthropic, and Ollama for embeddings, would be sent a field of that name. There each field is
    an argument of its own, of a list that LiteLLM hands on and does not act upon.
    """
    if not body or provider.wire not in (("ollama",) if embedding else ("anthropic",)):
        return {"extra_body": dict(body)} if body else {}
    return dict(body) if embedding else {**body, "allowed_openai_params": list(body)}
