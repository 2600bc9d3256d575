"""Fetches of models that calls wait for (`auto_pull: true`): in a thread of its own each, for all calls together."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from testronaut_llm.errors import LLMError, LocalModelError
from testronaut_llm.local.download import Progress, Report

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig


@contextmanager
def _unseen(_: str) -> Iterator[Report]:
    yield lambda _: None


shown: ContextVar[Callable[[str], AbstractContextManager[Report]]] = ContextVar("testronaut_llm_shown", default=_unseen)
"""What shows a person how far a fetch is; the command line sets it."""


@dataclass(slots=True)
class Fetch:
    """One fetch. It ends by itself when the last call that waits for it has run out of time (`until`)."""

    model: ModelConfig
    until: float
    future: Future[None] = field(default_factory=Future)
    progress: Progress = field(default_factory=Progress)

    def failure(self) -> LLMError | None:
        """Why the model is not there for the call that has waited, or None where it is."""
        error = self.future.exception() if self.future.done() else self._late()
        if error is None or isinstance(error, LLMError):
            return error
        raise error

    def _late(self) -> LocalModelError:
        from testronaut_llm.providers.provider_registry import pull_command

        done, total = self.progress.done, self.progress.total
        how_far = f" ({done / 1e9:.2f} of {total / 1e9:.2f} GB)" if total else ""
        return LocalModelError(
            f"{self.model.alias}: {self.model.model} was still being pulled{how_far} when the time of the call was "
            f"over; what has come is kept. Pull it beforehand: {pull_command(self.model)}"
        )

    def run(self, fetch: Callable[[Report], None]) -> None:
        """Does it. Whatever is raised is for those who wait."""
        try:
            with shown.get()(self.model.model) as show:

                def report(progress: Progress) -> None:
                    self.progress = progress
                    show(progress)
                    if time.monotonic() > self.until:
                        raise self._late()

                fetch(report)
        except BaseException as error:  # noqa: BLE001 - see above
            self.future.set_exception(error)
        else:
            self.future.set_result(None)


class Fetches:
    """The fetches of one manager; `tell` gets their events. Safe for threads."""

    def __init__(self, tell: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._lock, self._tell = threading.Lock(), tell
        self._running: dict[tuple[str, str | None], Fetch] = {}

    def begin(self, model: ModelConfig, seconds: float, fetch: Callable[[Report], None]) -> Fetch:
        """Begins a fetch that may take some seconds, or joins the one of the same model that runs already."""
        until = time.monotonic() + seconds
        with self._lock:
            running = self._running.get((model.model, model.api_base))
            if running is not None and not running.future.done():
                running.until = max(running.until, until)
                return running
            begun = self._running[model.model, model.api_base] = Fetch(model, until)
        begun.future.set_running_or_notify_cancel()  # who waits for it on an event loop cannot cancel it for others
        told = {"gen_ai.request.model": model.model}
        self._tell("model_pull", told)
        began = time.monotonic()

        def ended(future: Future[None]) -> None:
            how = {"llm.outcome": "failed" if future.exception() else "pulled", "error.message": future.exception()}
            self._tell("model_pull_ended", {**told, **how, "llm.latency_s": round(time.monotonic() - began, 1)})

        begun.future.add_done_callback(ended)
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(begun.run, fetch), name=f"pull-{model.name}", daemon=True).start()
        return begun

    def close(self) -> None:
        """Lets the running ones end at their next step."""
        with self._lock:
            for one in self._running.values():
                one.until = 0.0
