"""Compares costs of recorded answers with an independent calculation.

    python benchmarks/wire_costs.py FOLDER

FOLDER holds recordings in this form: `index.json`, a list with a row for each exchange (`id`, `provider`, `model`,
`status`, `streaming`, `endpoint`, `response_model`, `usage` as read from the body, `path`), and `replay_server.py` with
`serve(port)`, which answers `/x/<id>/...` with the recorded one. Each answer is fetched through the gateway, read and
priced as in a call. Independent of that: the tokens of the index times the plain row of LiteLLM's or tokencost's table,
as fractions; and genai-prices, whose tables are another's.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.gateway import Gateway
from testronaut_llm.gateway.model_request import Reply, Request, Target
from testronaut_llm.money.prices import Cost, PriceTable
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.records import Message, Usage

NAMES = {"ollama_openai": "ollama", "local_openai": "openai"}
BASES = {"openai": "/v1", "groq": "/v1", "mistral": "/v1", "deepseek": "/v1", "gemini": "/v1beta"}
COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
SAME = Decimal("1e-12")


@dataclass(frozen=True)
class Priced:
    """One answer: what it cost here, what it should have, and what genai-prices says (None: it does not know)."""

    model: str
    cost: Cost
    independent: Fraction | None
    genai: Decimal | None


def answers(folder: Path) -> Iterator[tuple[dict[str, Any], ModelConfig, Reply]]:
    """Each recorded answer with usage, as the gateway reads it."""
    spec = importlib.util.spec_from_file_location("replay_server", folder / "replay_server.py")
    assert spec
    assert spec.loader
    replay = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(replay)
    _, port = replay.serve(0)
    gateway, runner = Gateway(lambda text: text), asyncio.Runner()
    for row in json.loads((folder / "index.json").read_text("utf-8")):
        if row["status"] == 200 and row["model"] and (row["usage"] or {}).get("prompt") is not None:
            model = _model(row)
            make = _embedding if row["endpoint"] in ("embeddings", "embed") else _chat
            yield row, model, runner.run(_reply(gateway, make(row, folder, model, port)))
    runner.run(gateway.aclose())
    runner.close()


async def _reply(gateway: Gateway, request: Request) -> Reply:
    *_, reply = [part async for part in gateway.send(request, Exchange())]
    assert isinstance(reply, Reply)
    if reply.usage is None:
        return reply
    return replace(reply, usage=Usage(**{name: getattr(reply.usage, name) or 0 for name in COUNTS}))


def _model(row: dict[str, Any]) -> ModelConfig:
    provider = NAMES.get(row["provider"], row["provider"])
    base_model = row["model"] if provider == "azure" else None
    return ModelConfig(alias="m", model=f"{provider}/{row['model']}", base_model=base_model)


def _target(row: dict[str, Any], folder: Path, model: ModelConfig, port: int) -> Target:
    sent = json.loads((folder / row["path"]).read_text("utf-8"))
    asked = model if row["provider"] not in NAMES else ModelConfig(alias="m", model=f"openai/{row['model']}")
    version = ("v1" if "/openai/v1" in sent["url"] else "2024-10-21") if asked.provider == "azure" else None
    base = f"http://127.0.0.1:{port}/x/{row['id']}{BASES.get(asked.provider, '')}"
    key = SecretStr("not-a-key")
    return Target(model=asked, provider=provider_of(asked), api_base=base, api_version=version, key=key)


def _chat(row: dict[str, Any], folder: Path, model: ModelConfig, port: int) -> Request:
    return Request(
        target=_target(row, folder, model, port),
        messages=(Message(role="user", content="?"),),
        max_tokens=100,
        timeout=20.0,
        stream=bool(row["streaming"]),
        num_ctx=4096 if model.provider == "ollama" else None,
    )


def _embedding(row: dict[str, Any], folder: Path, model: ModelConfig, port: int) -> Request:
    sent = json.loads((folder / row["path"]).read_text("utf-8"))["request_json"] or {}
    texts = sent.get("input") if isinstance(sent.get("input"), list) else ["?"]
    return Request(target=_target(row, folder, model, port), texts=tuple(map(str, texts)), timeout=20.0)


def tables() -> dict[str, Any]:
    """The two tables, as they lie in their packages."""
    litellm = resources.files("litellm") / "model_prices_and_context_window_backup.json"
    tokencost = resources.files("tokencost") / "model_prices.json"
    return {"litellm": json.loads(litellm.read_text("utf-8")), "tokencost": json.loads(tokencost.read_text("utf-8"))}


def independent(row: dict[str, Any], source: str, known: dict[str, Any]) -> Fraction:
    """USD: the index's tokens times the plain rates of the row that the cost names."""
    used = {name: int(count or 0) for name, count in row["usage"].items()}
    within = row["provider"] != "anthropic"  # elsewhere the cached tokens are part of the prompt's
    plain = used["prompt"] - (used["cached"] + used["cache_write"] if within else 0)
    rates = known[source.split(maxsplit=1)[0]][source.split(": ")[1]]

    def rate(name: str, instead: str) -> Fraction:
        return Fraction(str(rates[name] if rates.get(name) is not None else rates.get(instead) or 0))

    cost = max(0, plain) * rate("input_cost_per_token", "")
    cost += used["cached"] * rate("cache_read_input_token_cost", "input_cost_per_token")
    cost += used["cache_write"] * rate("cache_creation_input_token_cost", "input_cost_per_token")
    apart = used["reasoning"] if row["provider"] == "gemini" else 0  # elsewhere thoughts are part of the answer's
    return cost + (used["completion"] + apart) * rate("output_cost_per_token", "")


def by_genai_prices(row: dict[str, Any], reply: Reply) -> Decimal | None:
    """USD by another's tables; None where they do not know the model."""
    import genai_prices

    assert reply.usage
    usage = genai_prices.Usage(
        input_tokens=reply.usage.prompt_tokens,
        output_tokens=reply.usage.completion_tokens,
        cache_read_tokens=reply.usage.cached_tokens or None,
        cache_write_tokens=reply.usage.cache_write_tokens or None,
    )
    provider = {"gemini": "google"}.get(row["provider"], row["provider"])
    try:
        found = genai_prices.calc_price(usage, model_ref=row["response_model"] or row["model"], provider_id=provider)
    except LookupError:
        return None
    return Decimal(found.total_price)


def measured(folder: Path) -> tuple[list[Priced], Counter[str]]:
    """The priced answers, and how many others there are of which kind."""
    prices, known = PriceTable.load(), tables()
    priced, others = [], Counter[str]()
    for row, model, reply in answers(folder):
        if not isinstance(reply.usage, Usage):
            others["not read: " + (type(reply.error).__name__ if reply.error else "no usage")] += 1
            continue
        cost = prices.cost(model, reply.usage, reply.response_model)
        if cost.amount is None:
            others["no known price"] += 1
        elif str(cost.source).startswith("local"):
            others["free, on the own machine"] += 1
        else:
            exact = independent(row, str(cost.source), known)
            priced.append(Priced(model.model, cost, exact, by_genai_prices(row, reply)))
    return priced, others


def main(folder: Path) -> None:
    """Print the counts, and each difference."""
    priced, others = measured(folder)
    wrong = [one for one in priced if Fraction(one.cost.amount or 0) != one.independent]
    print(f"{len(priced)} priced answers: {len(priced) - len(wrong)} equal to the last digit, {len(wrong)} not.")
    for one in wrong:
        print(f"- {one.model}: {one.cost.amount} here, {float(one.independent or 0):.10f} independently")
    print("Not priced: " + (", ".join(f"{count} {name}" for name, count in others.items()) or "none") + ".")
    known = [one for one in priced if one.genai is not None]
    other = [one for one in known if abs((one.genai or 0) - (one.cost.amount or 0)) > SAME]
    print(f"genai-prices knows {len(known)} of them and agrees on {len(known) - len(other)}; elsewhere it says:")
    ratios = Counter((one.model, f"{float((one.genai or 0) / (one.cost.amount or 1)):.2f}") for one in other)
    for (model, ratio), count in ratios.items():
        print(f"- {model}: {ratio} x ({count})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    if not (given.folder / "index.json").is_file():
        sys.exit(f"{given.folder} holds no recordings (no index.json); nothing was compared")
    main(given.folder)
