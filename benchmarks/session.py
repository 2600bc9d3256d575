"""Computes the cost of a Testronaut session for each strategy, from real `--help` texts.

    python benchmarks/session.py [--commands 120] [--seed 1]

For each command, its help text is analysed, tests are planned, and a result is verified. Routing, token counts, prices,
`min_quality`, the ledger and the cache are real; no model is asked. Two assumptions are varied: the length of answers
(`ANSWERS`), and how often an answer is refused (`REFUSED`; less often for a better model). A refused answer is paid
for, and the next model is asked. Nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from pathlib import Path

from testronaut_llm import Answer, LLMConfig
from testronaut_llm.cache.answer_cache import AnswerCache
from testronaut_llm.errors import AllModelsFailedError, BudgetExceededError
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.records import Usage
from testronaut_llm.testing.fake import FakeAnswer, FakeCall, FakeLLM

TOOLS = """
ar arch as awk b2sum base32 base64 basename basenc bash bzip2 c++filt cat chcon chgrp chmod chown chroot cksum cmp comm
cp csplit curl cut date dd df diff diff3 dir dircolors dirname du echo egrep env expand expr factor fgrep file find fmt
fold gcc gcov git gpg grep groups gzip head hostid iconv id install join kill ld less link ln locale localedef logname
ls lsblk lscpu make md5sum mkdir mkfifo mknod mktemp more mv nice nl nm nohup nproc numfmt objcopy objdump od paste
patch pathchk perl pinky pip pr printenv printf ptx python3 ranlib readelf readlink realpath rm rmdir rsync runcon
sdiff sed seq sh sha1sum sha224sum sha256sum sha384sum sha512sum shred shuf size sleep sort split ssh stat stdbuf
strings strip stty sum sync tac tail tar tee test timeout touch tr true truncate tsort tty uname unexpand uniq
unlink uptime users vdir vi wc wget whereis which who whoami xargs xz yes zcat zip
"""
GIT = """
add am apply archive bisect blame branch bundle checkout cherry-pick clean clone commit config describe diff fetch
format-patch gc grep init log merge mv notes pull push range-diff rebase reflog remote reset restore revert rm show
sparse-checkout stash status submodule switch tag worktree
"""
"""Read-only when asked for help: no command does anything else here."""

MODELS = {
    "best": {"model": "anthropic/claude-sonnet-4-5", "quality": 9},
    "good": {"model": "openai/gpt-4.1", "quality": 8},
    "fair": {"model": "anthropic/claude-haiku-4-5", "quality": 7},
    "cheap": {"model": "openai/gpt-4.1-mini", "quality": 6},
    "cheapest": {"model": "openai/gpt-4.1-nano", "quality": 4},
}
"""In a user's order, best first, with a user's judgement of them; prices come from the tables."""
TASKS = {
    "cli_analysis": {"min_quality": 5, "max_tokens": 4096},
    "test_generation": {"min_quality": 6, "max_tokens": 8192},
    "result_verification": {"min_quality": 4, "max_tokens": 1024},
}
ANSWERS = {"cli_analysis": 1200, "test_generation": 2400, "result_verification": 150}
"""Tokens of a usual answer; each is between half and one and a half of it."""
REFUSED = 0.1
"""How often an answer of quality 5 is refused; proportional to 10 - quality."""
STRATEGIES = ("always the best", "as_listed", "cheapest", "balanced", "cascade")
DAY = 86_400.0
MORNING = 20_000 * DAY
"""Seconds: the calls are spread over one day, so that `balanced` paces itself."""


def helps(number: int) -> dict[str, str]:
    """Returns the help texts of the first commands that have one, by name."""
    found: dict[str, str] = {}
    commands = [([name, "--help"], name) for name in TOOLS.split()] + [
        (["git", name, "-h"], f"git {name}") for name in GIT.split()
    ]
    for command, name in commands:
        if len(found) < number and shutil.which(command[0]):
            try:
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
            except (OSError, subprocess.TimeoutExpired):
                continue
            text = (done.stdout or done.stderr).decode(errors="replace").strip()
            if len(text) > 100:
                found[name] = text
    return found


def calls(texts: dict[str, str]) -> list[tuple[str, str]]:
    """Returns task and prompt of each call of a session."""
    made = []
    for name, text in texts.items():
        made.append(("cli_analysis", f"List the commands and options of {name}.\n\n{text}"))
        made.append(("test_generation", f"Write tests of {name} for this command tree.\n\n{text[:6000]}"))
        made.append(("result_verification", f"Expected of {name}:\n{text[:800]}\nActual:\n{text[:800]}\nThe same?"))
    return made


@cache
def prices() -> PriceTable:
    """Returns the price table, read once."""
    return PriceTable.load()


@contextmanager
def manager(strategy: str, *, length: float, seed: int, budget: Decimal | None) -> Iterator[FakeLLM]:
    """Returns a manager with one strategy, whose answers have the assumed lengths."""
    best = strategy == STRATEGIES[0]
    settings = {"models": ["best"] if best else list(MODELS), "strategy": "as_listed" if best else strategy}
    config = {
        "version": 1,
        "models": MODELS,
        "tasks": {name: {**task, **settings, "retries": 0} for name, task in TASKS.items()},
        "budget": {"scope": "benchmark", **({"per_day": budget} if budget is not None else {})},
    }
    with FakeLLM(config=LLMConfig.model_validate(config)) as llm:
        llm._caller.services.prices = prices()

        def answer(asked: FakeCall) -> FakeAnswer:
            tokens = ANSWERS[asked.task] * length * random.Random(f"{seed} {asked.prompt}").uniform(0.5, 1.5)
            one = next(c for c in llm.route(asked.task, asked.prompt).candidates if c.alias == asked.model)
            return FakeAnswer(
                text="yes", usage=Usage(prompt_tokens=one.est_tokens or 0, completion_tokens=round(tokens))
            )

        llm.reply(answer)
        yield llm


def run(
    asked: Sequence[tuple[str, str]],
    strategy: str,
    *,
    length: float = 1.0,
    refused: float = REFUSED,
    seed: int = 1,
    budget: Decimal | None = None,
    again: bool = False,
) -> tuple[Decimal, float]:
    """Returns USD and mean quality (0 for a call without an answer) of a session; with `again`, of its second run."""
    with tempfile.TemporaryDirectory() as folder, manager(strategy, length=length, seed=seed, budget=budget) as llm:
        llm._lookup.cache = AnswerCache(Path(folder)) if again else None

        def fits(answer: Answer, prompt: str) -> bool:
            quality = int(MODELS[answer.model]["quality"])
            refusal = 0.0 if answer.model == "best" else refused * (10 - quality) / 5
            return random.Random(f"{seed} {prompt} {answer.model}").random() >= refusal

        clock, costs = [MORNING], []
        llm._ledger.clock = lambda: clock[0]
        for _ in range(2 if again else 1):
            qualities = []
            before = llm.session.cost
            for number, (task, prompt) in enumerate(asked):
                clock[0] = MORNING + number * DAY / len(asked)
                llm._caller.services.budgets._rates.clear()  # kept for a minute, which is over in this day
                try:
                    answer = llm.complete(task, prompt, accept=lambda a, p=prompt: fits(a, p))
                except (AllModelsFailedError, BudgetExceededError):  # what was left did not allow a better model
                    qualities.append(0)
                    continue
                qualities.append(int(MODELS[answer.model]["quality"]))
                assert qualities[-1] >= TASKS[task]["min_quality"], "a floor was broken"
            costs.append(llm.session.cost - before)
        assert budget is None or costs[0] <= budget, "the budget was broken"
        return costs[-1], sum(qualities) / len(qualities)


def table(number: int, seed: int) -> str:
    """Prints the results, and how they change with the assumptions."""
    texts = helps(number)
    asked = calls(texts)
    base, _ = run(asked, STRATEGIES[0], seed=seed)
    lines = [
        f"{len(texts)} commands, {len(asked)} calls. The day's budget of `balanced`: half of the first row.",
        "",
        "| strategy | USD | compared with always the best | mean quality | again, from the cache |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in STRATEGIES:
        budget = base / 2 if name == "balanced" else None
        cost, quality = run(asked, name, seed=seed, budget=budget)
        warm, _ = run(asked, name, seed=seed, budget=budget, again=True)
        lines.append(f"| {name} | {cost:.4f} | {cost / base:.3f} | {quality:.1f} | {warm:.4f} |")
    lines += ["", "| answers, refused | " + " | ".join(STRATEGIES[1:]) + " |", "| --- |" + " --- |" * 4]
    few = asked[: 3 * max(1, len(texts) // 4)]
    for length in (0.5, 1.0, 2.0):
        for refused in (0.0, 0.1, 0.3):
            best, _ = run(few, STRATEGIES[0], length=length, refused=refused, seed=seed)
            shares = [
                run(few, n, length=length, refused=refused, seed=seed, budget=best / 2 if n == "balanced" else None)[0]
                for n in STRATEGIES[1:]
            ]
            lines.append(f"| x {length:g}, {refused:.0%} | " + " | ".join(f"{s / best:.3f}" for s in shares) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(table(given.commands, given.seed))
