"""`classify` prints a label; its exit code is 0 if the label is the expected one."""

from __future__ import annotations

import json

import faults
import pytest
from manager_kit import Api, Make, Run

LABELS = ("--label", "passed=as expected", "--label", "failed")


@pytest.fixture
def api(project: Make) -> Api:
    """A server that answers `passed` to everything."""
    return project(faults.good('{"result": "passed"}'))


@pytest.mark.parametrize(("expect", "code"), [((), 0), (("--expect", "passed"), 0), (("--expect", "failed"), 1)])
def test_the_label_is_printed(run: Run, api: Api, expect: tuple[str, ...], code: int) -> None:
    found, out, err = run("classify", "t", "-", *LABELS, *expect, stdin="All is well.")
    assert (found, out) == (code, "passed\n")
    assert "passed 94%, failed 6% (by votes, 2 answers), $" in err
    assert "- passed: as expected" in str(api.bodies[0])


def test_a_label_is_taken_without_its_outer_spaces(run: Run, api: Api) -> None:
    words = ("--label", " passed = fine", "--label", "failed ", "--expect", "passed ", "--votes", "1")
    code, out, err = run("classify", "t", "hi", *words)
    assert (code, out, "(by votes, 1 answer), $" in err) == (0, "passed\n", True), err
    assert "- passed: fine\\n- failed" in json.dumps(api.bodies[0])


@pytest.mark.usefixtures("api")
def test_json_holds_everything(run: Run) -> None:
    found = json.loads(run("classify", "t", "hi", *LABELS, "--votes", "1", "--json")[1])
    assert (found["label"], found["method"], found["votes"]) == ("passed", "votes", {"passed": 1, "failed": 0})
    assert sum(found["probabilities"].values()) == pytest.approx(1)
    assert [one["model"] for one in found["verdicts"]] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--label", "a"), "1 label; expected 2 to 26"),
        (("--label", "a", "--label", "a=again"), "names one label twice"),
        ((*LABELS, "--expect", "skipped"), "--expect is 'skipped'; expected one of passed, failed"),
        ((*LABELS, "--votes", "0"), "votes is 0"),
        ((*LABELS, "--min-confidence", "2"), "min_confidence is 2.0"),
    ],
)
def test_wrong_labels_are_one_message(run: Run, api: Api, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = run("classify", "t", "hi", *arguments)
    assert (code, out, words in err, api.bodies) == (2, "", True, []), err
