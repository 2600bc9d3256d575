"""Chooses the context an embedded model is loaded with, and says before the load when it cannot fit."""

from __future__ import annotations

from functools import partial

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import machine
from testronaut_llm.local.gguf_header import GgufHeader

DEFAULT_CONTEXT = 8192
DEFAULT_TEXT = 2048
"""Tokens of a text to embed; a longer one is refused, and memory is taken for all of it at once."""
SMALLEST_CONTEXT = 512
STEP = 256
BATCH = 512
WIDTHS = 32
"""Activations held for each token of a batch, in widths of the model (measured)."""
OVERHEAD = 80 * 2**20
"""Bytes of the child process without a model: Python, the llama.cpp library, HTTP threads."""
RESERVE = 64 * 2**20
"""Bytes left to the rest of the machine."""


def needed_memory(header: GgufHeader, context: int, *, embeddings: bool = False) -> int:
    """Bytes that serving the model takes with one slot of `context` tokens: weights, KV cache, compute buffers."""
    batch = batch_size(context, embeddings=embeddings)
    scores = 4 * batch * header.vocabulary if header.pooling is None else 0  # a chat model makes them to embed, too
    compute = 4 * batch * WIDTHS * header.embedding + scores
    return header.size + context * header.kv_bytes + compute + OVERHEAD


def batch_size(context: int, *, embeddings: bool = False) -> int:
    """Tokens computed at once. An embedding needs its whole text in one go."""
    return context if embeddings else min(context, BATCH)


def fitting_context(
    header: GgufHeader, name: str, available: int, *, wanted: int | None = None, embeddings: bool = False
) -> int:
    """The context in tokens to load `name` with, given `available` bytes.

    `wanted` (`num_ctx` of `llm.yaml`) is kept or refused, never more than the model was trained for; without it the
    context shrinks as far as the memory asks.

    Raises:
        LocalModelError: not even the smallest context fits, or not the wanted one; names the largest that does.
    """
    needed = partial(needed_memory, header, embeddings=embeddings)
    target = min(wanted or (DEFAULT_TEXT if embeddings else DEFAULT_CONTEXT), header.context)
    room = available - RESERVE
    if needed(target) <= room:
        return target
    largest = next((n for n in range(target - target % STEP, SMALLEST_CONTEXT - 1, -STEP) if needed(n) <= room), None)
    if largest is None:
        raise LocalModelError(
            f"embedded/{name} needs about {_mib(needed(min(SMALLEST_CONTEXT, target)))} of memory even with a context "
            f"of {SMALLEST_CONTEXT} tokens, and {_mib(max(0, room))} can be spared. Close something, or name a smaller "
            "model or a stronger quantisation (testronaut-llm models list)"
        )
    if wanted is None:
        return largest
    raise LocalModelError(
        f"embedded/{name} with num_ctx: {wanted} needs about {_mib(needed(target))} of memory, and {_mib(room)} can be "
        f"spared. The largest context that fits: write num_ctx: {largest} in llm.yaml, or name a smaller model"
    )


def check_memory(what: str, size: int, memory: float | None = None) -> None:
    """Raises LocalModelError: weights of `size` bytes can never be loaded into `memory` (default: this machine's)."""
    most = machine.memory() if memory is None else memory
    if size + OVERHEAD > most:
        raise LocalModelError(
            f"{what} needs at least {_mib(size)} of memory, and this machine has {_mib(int(most))}; name a "
            "smaller model or a stronger quantisation"
        )


def _mib(amount: int) -> str:
    return f"{amount / 2**20:,.0f} MiB"
