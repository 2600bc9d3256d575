"""What it takes to ask: the route of a call, and the flow that goes along it with keys, money and a judge.

A module of its own, so that an answer from the cache loads none of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from testronaut_llm.calls.flow import Plan, flow_of
from testronaut_llm.calls.judge import Judge
from testronaut_llm.calls.request_maker import chat_request, longest_answer, prompt_bound
from testronaut_llm.gateway.model_request import EmbedRequest, Request, Target
from testronaut_llm.limits.rules import key_of, rules_of
from testronaut_llm.money.price_rows import service_of
from testronaut_llm.providers.provider_registry import timeout_of
from testronaut_llm.routing.cost_optimizer import nothing_left, plan
from testronaut_llm.routing.limits import with_limits
from testronaut_llm.routing.options import READY, Scale
from testronaut_llm.routing.retry import Policy, Try
from testronaut_llm.routing.task_router import Selected, one_vector_space, select

if TYPE_CHECKING:
    from testronaut_llm.calls.engine import Engine
    from testronaut_llm.calls.steps import Flow
    from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig
    from testronaut_llm.limits.rate_limiter import Ticket
    from testronaut_llm.records import Call, Route


def route_of(
    engine: Engine,
    config: LLMConfig,
    task: TaskConfig,
    call: Call,
    selected: tuple[Selected, ...],
    *,
    dry: bool = False,
    embedding: bool = False,
) -> Route:
    """Which models to ask, in which order, and why.

    A dry run counts the models that cannot be asked, too, and looks up what each would leave out.
    """
    scale = Scale(
        task=task.name,
        messages=call.messages,
        max_tokens=call.max_tokens,
        prices=engine.prices,
        counter=engine.counter,
        count_all=dry,
        embedding=embedding,
    )
    options = [
        scale.weigh(
            one,
            engine.ready(one.model) if one.excluded is None else READY,
            schema=json.dumps(schema.schema) if schema is not None and schema.schema is not None else "",
            bound=prompt_bound(engine.counter, call, one.model, schema),
            service=service_of({**one.model.extra, **call.extra}) or "",
            context=seen.context if (seen := engine.probes.seen(one.model, one.provider)) else None,
            speed=engine.speeds.latest(one.model) if one.provider.local else None,
            dropped_params=_dropped(engine, call, one) if dry else (),
        )
        for one in selected
        for schema in (call.output.wire(engine.dialect(one.model)) if call.output else None,)
    ]
    most = 0 if embedding else call.max_tokens
    route = plan(
        task,
        options,
        max_tokens=most,
        money=engine.budgets.money(config, task, call),
        schema=call.output is not None,
        strategy="as_listed" if embedding else None,
    )
    return with_limits(route, config, engine.limiter, most) if dry else route


def flow_along(
    engine: Engine, config: LLMConfig, task: TaskConfig, call: Call, texts: tuple[str, ...]
) -> tuple[Route, Flow]:
    """See `Engine.flow`."""
    selected = select(config, call.model, task)
    if texts:
        selected = one_vector_space(selected)
    route = route_of(engine, config, task, call, selected, embedding=bool(texts))
    if not route.kept:
        raise nothing_left(route)
    engine.gateway.load()
    for one in selected:
        engine.local.look(one.model)
    models = {one.model.alias: one.model for one in selected}
    purse = engine.budgets.purse(config, task, call)
    judge = Judge(
        call=call,
        models=models,
        prices=engine.prices,
        counter=engine.counter,
        dialect=engine.dialect,
        explain=engine.local.explain,
        affordable=purse.affords,
        doubt=engine.doubted,
        allow_truncated=task.allow_truncated,
        vectors=bool(texts),
    )
    made = Plan(
        route=route,
        ask=partial(_ask, engine, call, models, texts),
        limit={alias: call.timeout or timeout_of(model) for alias, model in models.items()},
        judge=judge,
        purse=engine.purse or purse,
        policy=Policy(retries=call.retries, fallback_on=task.fallback_on, cascade=task.strategy == "cascade"),
        fetch=lambda alias, seconds: engine.local.fetch(models[alias], seconds),
        slow=lambda alias: _is_slow(models[alias]),
        ticket=lambda step: _ticket(engine, config, models, step, 0 if texts else longest_answer(call, step)),
        rest=lambda alias: engine.limiter.rest(key_of(models[alias])),
        on_attempt=engine.attempted,
    )
    return route, flow_of(call, made)


def _ticket(engine: Engine, config: LLMConfig, models: Mapping[str, ModelConfig], step: Try, answer: int) -> Ticket:
    model = models[step.candidate.alias]
    tokens = (step.candidate.est_tokens or 0) + answer
    return engine.limiter.ticket(rules_of(config, model), key_of(model), tokens)


def _ask(
    engine: Engine,
    call: Call,
    models: Mapping[str, ModelConfig],
    texts: tuple[str, ...],
    step: Try,
    text: str,
) -> Callable[[float], Request | EmbedRequest]:
    model = models[step.candidate.alias]

    def make(timeout: float) -> Request | EmbedRequest:
        if "reasoning" in step.without:
            engine.local.note_cannot_think(model)
        target = engine.target(model, embeddings=bool(texts))
        longest = max((engine.counter.text_length(model, one) for one in texts), default=step.candidate.est_tokens or 0)
        needed = int(longest * 1.3) + 256 + (0 if texts else longest_answer(call, step))
        num_ctx = engine.local.window(model, needed=needed, most=step.candidate.context_window)
        if texts:
            return EmbedRequest(
                target=target, texts=texts, timeout=timeout, num_ctx=num_ctx, extra=call.extra, task=call.task
            )
        schema = call.output.wire(engine.dialect(model)) if call.output else None
        return chat_request(call, target, step, schema=schema, num_ctx=num_ctx, timeout=timeout, answered=text)

    return make


def _is_slow(model: ModelConfig) -> bool:
    """May it take a while until a request can be made: a start, a command?"""
    return model.provider == "embedded" or model.api_key_command is not None


def _dropped(engine: Engine, call: Call, one: Selected) -> tuple[str, ...]:
    target = Target(model=one.model, provider=one.provider, api_base=None)
    given = {"temperature": call.temperature, "stop": list(call.stop) or None, "seed": call.seed}
    params = {name: value for name, value in given.items() if value is not None}
    return (*engine.gateway.dropped_params(target, params), *engine.not_thought(one.model))
