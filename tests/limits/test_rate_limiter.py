"""The rate limiter on a clock that tests move."""

from __future__ import annotations

import itertools
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rate_kit import Job, Still, play

from testronaut_llm import errors
from testronaut_llm.limits.rate_limiter import LONGEST_PAUSE, RateLimiter, pause_of
from testronaut_llm.limits.rules import Rule

RPM = Rule(name="limits.p", rpm=3)
TPM = Rule(name="limits.p", tpm=100)
ONE = Rule(name="limits.p", concurrency=1)
A, B, C = Rule(name="a", rpm=2), Rule(name="b", concurrency=2), Rule(name="c", tpm=50, rpm=5)
RULES = st.sampled_from([(A,), (A, B), (B, C), (C,), (Rule(name="d", concurrency=1, implied=True),)])
SECONDS = st.integers(1, 1000).map(lambda tenths: tenths / 10)
TOKENS = {"tokens": st.integers(1, 80), "uses": st.integers(0, 80)}
PATIENCE = st.sampled_from([0.0, 5.0, 50.0, 1e6, 1e6, 1e6])
JOBS = st.lists(st.builds(Job, at=SECONDS, lasts=SECONDS, rules=RULES, patience=PATIENCE, **TOKENS), max_size=25)


@settings(deadline=None, max_examples=80)
@given(JOBS)
def test_no_limit_is_exceeded_and_every_call_gets_its_turn(jobs: list[Job]) -> None:
    """For any calls, the requests and tokens of each minute and the slots stay within the rules, in order."""
    play(jobs)
    granted = [job for job in jobs if not math.isnan(job.granted)]
    assert all(job in granted for job in jobs if job.patience > 1000)
    for rule in {rule for job in jobs for rule in job.rules}:
        under = sorted((job for job in granted if rule in job.rules), key=lambda job: job.granted)
        for job in under:
            minute = [one for one in under if one.granted <= job.granted < one.granted + 60]
            at_once = [one for one in under if one.granted <= job.granted < one.left]
            assert rule.rpm is None or len(minute) <= rule.rpm
            assert rule.concurrency is None or len(at_once) <= rule.concurrency
            assert rule.tpm is None or sum(_counts(one, job.granted) for one in minute) <= rule.tpm
    for rules in {job.rules for job in granted}:
        line = sorted((job for job in granted if job.rules == rules), key=lambda job: (job.granted, job.at))
        assert [job.at for job in line] == sorted(job.at for job in line)


def _counts(job: Job, now: float) -> int:
    """Returns the tokens that a job counts for: the used ones after its end, either number at its end."""
    return min(job.tokens, 50) if job.left > now else job.uses if job.left < now else min(job.tokens, job.uses, 50)


def test_requests_a_minute() -> None:
    """The fourth of three requests a minute waits until the first is a minute old; each knows its wait."""
    still = Still(RPM)
    for _ in range(3):
        still.asked()
        still.now += 1
    line = [still.ticket() for _ in range(5)]
    assert not any(ticket.turn() for ticket in line)
    assert [ticket.at_least for ticket in line] == [57.0, 58.0, 59.0, 117.0, 118.0]
    assert (line[0].look_in, line[0].blocked_by) == (57.0, "limits.p (rpm: 3)")
    still.now += 57
    assert [ticket.turn() for ticket in line[:2]] == [True, False]
    for ticket in line:
        ticket.leave()
    edits = {2: False, 4: True, None: True}  # a new limit holds for the next request
    assert {rpm: still.ticket(rules=(Rule(name="limits.p", rpm=rpm),)).turn() for rpm in edits} == edits


def test_tokens_are_reserved_by_estimate_and_corrected_by_usage() -> None:
    """No small call passes a large one that waits for the same tokens; one under other limits does."""
    still = Still(TPM)
    still.asked(tokens=30)
    still.now += 30
    running, large, small, other = still.turn(60), still.ticket(80), still.ticket(5), still.ticket(5, rules=())
    assert [large.turn(), small.turn(), other.turn()] == [False, False, True]
    assert large.look_in == 60.0
    running.leave(sent=True, tokens=10, headers={})
    assert (large.woken.is_set(), large.turn()) == (True, False)
    assert (large.look_in, large.woken.is_set()) == (30.0, False)
    still.now += 30
    assert [large.turn(), small.turn()] == [True, True]


@pytest.mark.parametrize(
    ("given_back", "fits"),
    [
        ({}, True),  # not sent
        ({"sent": True}, False),
        ({"sent": True, "tokens": 0, "error": errors.InvalidRequestError("no"), "headers": {}}, True),
        ({"sent": True, "tokens": 99, "headers": {}}, False),
    ],
)
def test_only_known_usage_changes_what_is_reserved(given_back: dict[str, object], fits: bool) -> None:
    """A request that was not sent or was refused uses nothing; one without an answer keeps its estimate."""
    still = Still(TPM)
    still.turn(100).leave(**given_back)  # type: ignore[arg-type]
    assert still.ticket(50).turn() is fits
    still = Still(Rule(name="limits.p", rpm=1))
    still.turn().leave(**given_back)  # type: ignore[arg-type]
    assert still.ticket().turn() is not given_back.get("sent", False)


def test_a_pause_that_the_provider_asks_for_holds_back_later_calls() -> None:
    """A retry-after, or headers that report nothing left, delay later calls of the same model only."""
    still = Still()
    still.asked(errors.RateLimitError("slow", retry_after=20.0))
    later = still.ticket()
    assert not later.turn()
    assert (later.at_least, later.is_alone) == (20.0, True)
    assert later.blocked_by == "the pause that its provider asks for"
    assert still.turn(model="other")
    still.now += 20
    assert later.turn()
    later.leave()
    still.asked(errors.QuotaExceededError("no credit", retry_after=50.0))  # waiting does not help
    still.asked(errors.RateLimitError("slow", retry_after=86400.0))
    still.now += LONGEST_PAUSE
    still.asked(headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"})  # a good answer
    assert still.limiter.cooldown("m") == (False, 90.0)
    still.now += 90
    _fail(still, 4)
    still.asked(errors.OverloadedError("busy", retry_after=33.0))  # its cooldown is as long as the provider asks
    assert still.limiter.cooldown("m") == (True, 33.0)


def _fail(still: Still, times: int = 5) -> None:
    down = [errors.ServerError("boom"), errors.OverloadedError("busy"), errors.ConnectionFailedError("gone")]
    for number in range(times):
        still.asked(down[number % 3])


def test_failures_in_a_row_start_a_cooldown_and_an_answer_ends_it() -> None:
    """A failed probe doubles the cooldown up to a minute; the answer of the one probe lets all others through."""
    still, boom = Still(), errors.ServerError("boom")
    _fail(still, 4)
    still.asked(errors.InvalidRequestError("its server is there"))
    older = [still.turn() for _ in range(3)]
    _fail(still, 4)
    assert still.limiter.cooldown("m") == (False, 0.0)
    _fail(still, 1)
    for ticket in older:  # they were sent before the cooldown
        ticket.leave(sent=True, error=boom)
    cooldowns = []
    for _ in range(6):
        cooldowns.append(still.limiter.cooldown("m")[1])
        still.now += cooldowns[-1]
        probe, waiting = still.turn(), still.ticket()
        assert not waiting.turn()
        probe.leave(sent=True, error=boom)
        assert not waiting.turn()
        assert waiting.is_in_vain  # a call waits for one cooldown only
        waiting.leave()
    assert cooldowns == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    still.now += 60
    probe, second, third = still.turn(), still.ticket(), still.ticket()
    assert not any([second.turn(), third.turn()])
    probe.leave(sent=True, headers={})
    assert [second.turn(), third.turn(), still.ticket().turn()] == [True, True, True]


def test_a_probe_that_was_cancelled_leaves_its_place_to_the_next() -> None:
    """A cancelled probe proves nothing, so the next call is the probe."""
    still = Still()
    _fail(still)
    still.now += 5
    probe, second = still.turn(), still.ticket()
    assert not second.turn()
    probe.leave(sent=True)
    assert (second.turn(), second.is_probe) == (True, True)
    assert still.limiter.cooldown("m")[0]


def test_a_fork_begins_with_free_slots() -> None:
    limiter = RateLimiter()
    assert limiter.ticket((ONE,), "m", 1).turn()
    if os.fork() == 0:
        os._exit(70 + limiter.ticket((ONE,), "m", 1).turn())
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 71


NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z


@pytest.mark.parametrize("reading", range(1, 6))
def test_a_pause_that_ends_while_a_turn_is_asked_for_is_not_waited_for_longer(reading: int) -> None:
    """Whichever reading of the clock is the first after the pause, the ticket has its turn or knows when to look."""
    still = Still(ONE)
    still.asked(errors.RateLimitError("slow down", retry_after=1.0))
    began, readings = still.now, itertools.count(1)
    still.limiter.clock = lambda: began + (0.5 if next(readings) < reading else 1.5)
    ticket = still.ticket()
    assert ticket.turn() or ticket.look_in == 0.5


def left(kind: str, remaining: str, reset: str, limit: str = "", form: str = "x-ratelimit-{0}-{1}") -> dict[str, str]:
    facts = {"remaining": remaining, "reset": reset, "limit": limit}
    return {form.format(name, kind): value for name, value in facts.items() if value}


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        (left("requests", "499", "120ms"), 0.0),
        (left("requests", "0", "1d2h3m4.5s"), 93784.5),
        (left("requests", "-1", "17"), 17.0),
        (left("requests", "0", str(NOW + 8)), 8.0),
        (left("tokens", "100", "30s"), 30.0),
        (left("tokens", "500", "60s", "60500"), 0.5),  # it fills up evenly, and 500 are missing
        (left("tokens", "10", "30s", "20"), 30.0),  # never enough: wait for all there is
        ({**left("requests", "0", "3s"), **left("tokens", "0", "5s")}, 5.0),
        (left("requests", "0", "2026-09-21T14:13:30Z", form="anthropic-ratelimit-{1}-{0}"), 10.0),
        (left("input-tokens", "0", "2026-09-21T14:13:21+00:00", form="anthropic-ratelimit-{1}-{0}"), 1.0),
        (left("requests", "few", "9s"), 0.0),
        (left("requests", "0", "soon"), 0.0),
        (left("requests", "0", "inf"), 0.0),
    ],
)
def test_headers_are_read_as_a_pause(headers: dict[str, str], pause: float) -> None:
    """The pause of a request of 1,000 tokens follows the last headers; invalid ones ask for none."""
    assert pause_of(headers, 1000, NOW) == pytest.approx(pause, abs=1e-3)
