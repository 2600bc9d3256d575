"""Many texts to embed are several requests of one call, with one bill."""

from __future__ import annotations

import faults
import pytest
from fault_server import Exchange
from manager_kit import Api, Make, booked, manager, model

from testronaut_llm import errors

pytestmark = pytest.mark.usefixtures("provider_keys")
MOST = {"openai": 2048, "azure": 2048, "azure v1": 2048, "ollama": 96}


def by_length(exchange: Exchange) -> None:
    """Answers with the length of each text."""
    vectors = tuple((float(len(text)), 1.0) for text in exchange.request.body["input"])
    faults.good(vectors=vectors, usage=(10 * len(vectors), 0))(exchange)


def texts(count: int) -> list[str]:
    return [f"{'x' * (number % 50)}{number:05}" for number in range(count)]


def counts(api: Api) -> list[int]:
    return [len(body["input"]) for body in api.bodies]


@pytest.mark.parametrize("cache", ["use", "off"])
@pytest.mark.parametrize("wire", MOST)
async def test_texts_are_sent_in_requests_that_the_server_takes(api: Make, wire: str, cache: str) -> None:
    a, most, given = api("a", by_length), MOST[wire], texts(MOST[wire] + 2)
    with manager({"m": model(wire, a)}, cache=cache) as llm:
        found = await llm.aembed("t", iter(given))
        assert (counts(a), found.vectors) == ([most, 2], tuple((float(len(one)), 1.0) for one in given))
        assert found.usage.prompt_tokens == 10 * len(given)
        assert found.cost == sum(one.cost or 0 for one in found.attempts)
        assert booked(llm) == (2, 0, found.cost)
        again = llm.embed("t", [*given, "one more"])
        assert (again.vectors, counts(a)[2:]) == ((*found.vectors, (8.0, 1.0)), [1] if cache == "use" else [most, 3])
        assert (again.saved is not None) == (cache == "use")
    assert (found.model, found.usage.estimated) == ("m", False)
    assert wire != "ollama" or (a.asked[0].path, a.bodies[0]["truncate"]) == ("/api/embed", False)


def test_a_request_has_only_so_many_bytes(api: Make) -> None:
    a = api("a", by_length)
    with manager({"m": model("openai", a, context_window=10**6)}) as llm:
        llm.embed("t", ["é" * 150_000, "x" * 300_000, "y", "z" * 700_000, "u"])
    assert counts(a) == [2, 1, 1, 1]


def test_a_failure_forgets_no_request_before_it(api: Make) -> None:
    """The error tells of all attempts of the call; what was paid is stored, and is not sent again."""
    a, given = api("a", by_length, faults.error("authentication"), by_length), texts(98)
    with manager({"m": model("ollama", a)}, cache="use") as llm:
        with pytest.raises(errors.AllModelsFailedError) as caught:
            llm.embed("t", given)
        assert [one.outcome for one in caught.value.attempts] == ["answer", "error"]
        assert booked(llm)[0] == 2
        assert len(llm.embed("t", given).vectors) == 98
    assert counts(a) == [96, 2, 2]


@pytest.mark.parametrize("limits", [{"per_call": 5}, {"per_day": 5}])
def test_a_budget_holds_for_all_requests(api: Make, limits: dict[str, int]) -> None:
    """Each costs $0.96, and $4.55 at most."""
    a = api("a", by_length)
    row = model("ollama", a, price={"input": 1000, "output": 0})
    with manager({"m": row}, budget=limits) as llm, pytest.raises(errors.BudgetExceededError) as caught:
        llm.embed("t", texts(192))
    assert [one.outcome for one in caught.value.attempts] == ["answer"]
    assert counts(a) == [96]


@pytest.mark.parametrize("vectors", [((1.0,),), ((1.0,), ()), ((1.0,), (2.0,), (3.0,))])
@pytest.mark.parametrize("wire", ["openai", "ollama"])
def test_a_missing_vector_is_no_answer(api: Make, wire: str, vectors: tuple[tuple[float, ...], ...]) -> None:
    a = api("a", faults.good(vectors=vectors))
    with manager({"m": model(wire, a)}) as llm, pytest.raises(errors.AllModelsFailedError) as caught:
        llm.embed("t", ["one", "two"])
    assert isinstance(caught.value.last, errors.BadResponseError)
    assert len(a.asked) == 1


def test_embeddings_keep_to_one_vector_space(api: Make) -> None:
    a, b, c = api("a", faults.error("authentication")), api("b", faults.good()), api("c", faults.good())
    models = {
        "a": model("openai", a, dimensions=3),
        "b": model("openai", b),
        "c": model("azure", c, base_model="gpt-4o-mini", dimensions=3),
    }
    with manager(models) as llm:
        assert llm.embed("t", "x").model == "c"
    assert not b.asked
