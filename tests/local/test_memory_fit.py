"""Which context fits, said before the load."""

from __future__ import annotations

from dataclasses import replace

import pytest

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.gguf_header import GgufHeader
from testronaut_llm.local.memory_fit import RESERVE, fitting_context, needed_memory

MODEL = GgufHeader(size=1_000_000_000, context=32768, embedding=2048, vocabulary=50_000, kv_bytes=100_000)


def room_for(context: int) -> int:
    return needed_memory(MODEL, context) + RESERVE


def test_with_room_enough_the_default_or_the_wanted_context_is_taken() -> None:
    """8192 tokens unless the config says otherwise, and never more than the model was trained for."""
    plenty = room_for(100_000)
    assert fitting_context(MODEL, "m", plenty) == 8192
    assert fitting_context(MODEL, "m", plenty, wanted=20_000) == 20_000
    assert fitting_context(MODEL, "m", plenty, wanted=1_000_000) == 32768
    assert fitting_context(replace(MODEL, context=300), "m", plenty) == 300


def test_without_a_wish_the_context_shrinks_to_what_fits() -> None:
    """A smaller machine gets a smaller context, not an error."""
    assert fitting_context(MODEL, "m", room_for(3000)) == 2816


def test_a_wish_that_does_not_fit_is_refused_with_the_largest_that_does() -> None:
    """num_ctx is never changed in silence; the message holds the line to write."""
    with pytest.raises(LocalModelError, match=r"num_ctx: 16384 needs about .* MiB .* write num_ctx: 2816 in llm.yaml"):
        fitting_context(MODEL, "m", room_for(3000), wanted=16384)


@pytest.mark.parametrize("wanted", [None, 4096])
def test_a_model_that_cannot_fit_at_all_says_how_much_it_takes(wanted: int | None) -> None:
    """With too little even for the smallest context, both numbers are named."""
    with pytest.raises(LocalModelError, match=r"embedded/m needs about 1,.* MiB .* 936 MiB can be spared"):
        fitting_context(MODEL, "m", 1000 * 2**20, wanted=wanted)


def test_embedding_takes_a_text_at_once() -> None:
    """Buffers grow with the text; a chat model also makes scores it does not need, an embedding model none."""
    assert fitting_context(MODEL, "m", room_for(100_000), embeddings=True) == 2048
    chat_model, embedder = (
        needed_memory(replace(MODEL, pooling=pooling), 2048, embeddings=True) for pooling in (None, 1)
    )
    assert chat_model - embedder == 4 * 2048 * 50_000
    assert embedder > needed_memory(replace(MODEL, pooling=1), 2048)
