"""The wire table cannot say more than the tests do."""

from __future__ import annotations

from pathlib import Path

import pytest
from proofs import Collected

TESTS = """
import pytest

by_server = pytest.mark.proves("text", wire="openai", by="fault server")


@by_server
@pytest.mark.parametrize("mode", ["complete", "acomplete", "stream"])
def test_proves(mode): ...


@by_server
@pytest.mark.skip
def test_skipped(): ...


@by_server
@pytest.mark.xfail
def test_expected_to_fail(): ...


def test_without_a_mark(): ...


@pytest.mark.proves
@pytest.mark.cassette("ollama/chat-stream")
def test_recorded(): ...


@by_server
def test_that_skips_itself():
    pytest.skip("no server")
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini(f"[pytest]\nasyncio_default_fixture_loop_scope = function\npythonpath = {Path(__file__).parent}")
    pytester.makeconftest("")
    pytester.makepyfile(TESTS)
    return pytester


def test_only_a_test_that_runs_fills_a_cell(suite: pytest.Pytester) -> None:
    """A marked test fills the cells of its parameters, and its recording says which; others fill none."""
    collected = Collected()
    suite.inline_run("--collect-only", "-p", "proofs", "-p", "no:randomly", plugins=[collected])
    cells = {(one.wire, one.what, one.mode, one.test.partition("::")[2]) for one in collected.proofs}
    assert cells == {
        ("openai", "text", "sync", "test_proves"),
        ("openai", "text", "async", "test_proves"),
        ("openai", "stream", "sync", "test_proves"),
        ("openai", "text", "sync", "test_that_skips_itself"),
        ("ollama", "stream", "sync", "test_recorded"),
    }
    assert any("Ollama" in one.by for one in collected.proofs)


def test_a_proof_that_skips_itself_fails(suite: pytest.Pytester) -> None:
    """What is in the table has run: skipping is a failure."""
    done = suite.inline_run("-p", "proofs", "-p", "no:randomly", "-k", "test_that_skips")
    _, skipped, failed = done.countoutcomes()
    assert (skipped, failed) == (0, 1)
