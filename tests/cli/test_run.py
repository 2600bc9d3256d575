"""`run` and `route`, and the errors of all commands: results on stdout, all else on stderr, never a traceback."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import faults
import pytest
from fault_server import Endpoint
from manager_kit import KEY, Run, program

from testronaut_llm.cli import screen
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.support import paths

pytestmark = pytest.mark.usefixtures("folder")
Edit = Callable[[str, str], None]


@pytest.mark.parametrize("words", [(), ("--stream",)])
def test_run_prints_the_answer_and_nothing_else(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run("run", "cli_analysis", "What is ls?", *words)
    assert (code, out) == (0, "An answer.\n")
    assert "good (openai/gpt-4o-mini): 12 + 6 tokens, $0.000024" in err
    code, out, _ = run("run", "cli_analysis", "What is ls?", "--no-cache", "--json", *words)
    answer = json.loads(out)
    assert (code, answer["text"], answer["model"], answer["cost"]) == (0, "An answer.", "good", "0.000024")
    assert [one["outcome"] for one in answer["attempts"]] == ["answer"]


def test_run_takes_a_schema(run: Run, endpoint: Endpoint, folder: Path, request: pytest.FixtureRequest) -> None:
    endpoint.plan(faults.good('{"name": "ls"}'))
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    (folder / "schema.json").write_text(json.dumps(schema))
    command = ("run", "cli_analysis", "hi", "--schema", "schema.json")
    assert json.loads(run(*command, "--json")[1])["parsed"] == {"name": "ls"}
    assert endpoint.requests[0].body["response_format"]["type"] == "json_schema"
    assert run(*command)[1] == '{"name": "ls"}\n'
    request.getfixturevalue("on_terminal")
    assert run(*command)[1] == '{\n  "name": "ls"\n}\n'


def test_a_prompt_is_an_argument_stdin_or_a_file(run: Run, endpoint: Endpoint) -> None:
    long = "word " * 500
    Path("prompt.txt").write_text(long)
    tokens = []
    for words, stdin in (((long,), None), (("-",), long), (("--file", "prompt.txt"), None), ((), None)):
        out = run("route", "cli_analysis", *words, "--json", stdin=stdin)[1]
        tokens.append(json.loads(out)["candidates"][0]["est_tokens"])
        run("run", "cli_analysis", *words, "--no-cache", stdin=stdin)
    assert tokens[0] == tokens[1] == tokens[2] > tokens[3] + 400
    assert [one.body["messages"][-1]["content"] for one in endpoint.requests] == [long] * 3


def test_a_refused_answer_is_an_error_with_its_cost(run: Run, endpoint: Endpoint) -> None:
    """A stream has printed its pieces by then; their line is ended."""
    endpoint.plan(faults.good("Half an answ", finish="length"))
    code, out, err = run("run", "cli_analysis", "hi", "--stream")
    assert (code, out, err.startswith("error (truncated)")) == (1, "Half an answ\n", True)
    assert "this run cost $0.000024\n" in err
    code, out, _ = run("run", "cli_analysis", "hi", "--stream", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "truncated")


def test_route_shows_every_candidate(run: Run, endpoint: Endpoint) -> None:
    code, out, _ = run("route", "cli_analysis", "hi", "--params")
    head, good, keyless = (line.split("\t") for line in out.splitlines())
    assert (code, head) == (0, ["model", "tokens", "cost", "at most", "selected", "why"])
    assert (good[0], good[-2], keyless[-2]) == ("good", "yes", "no")
    assert "export ANTHROPIC_API_KEY" in keyless[-1]
    assert not endpoint.requests
    candidates = json.loads(run("route", "cli_analysis", "hi", "--json")[1])["candidates"]
    assert [one["kept"] for one in candidates] == [True, False]
    assert run("route", "cli_analysis", "-m", "openai/no-such-model")[1].splitlines()[1].split("\t")[2:4] == ["?", "?"]
    assert "; does not take temperature" in run("route", "cli_analysis", "--params", "-m", "openai/gpt-6-luna")[1]


@pytest.mark.usefixtures("on_terminal", "tiny_offered")
def test_a_terminal_gets_tables_and_bars(run: Run, edit: Edit, capsys: pytest.CaptureFixture[str]) -> None:
    edit("models: [good, keyless]", "models: [good, keyless, anthropic/claude-opus-4-1]")
    lines = run("route", "cli_analysis", "hi")[1].splitlines()
    assert lines[0] == "cli_analysis: cheapest"
    assert lines[1].split() == ["model", "tokens", "cost", "at", "most", "selected"]
    assert lines[2].startswith("good ")
    reasons = lines.index("keyless, anthropic/claude-opus-4-1: not ready: ANTHROPIC_API_KEY is not set;")
    assert lines[reasons + 1] == "    export ANTHROPIC_API_KEY='your key'"
    assert max(map(len, lines)) <= 80
    screen.table("two", ("what", "value"), [("a", "x" * 99 + " y"), ("b", "one\ntwo"), ("c", "")])
    assert capsys.readouterr().out == f"two\na:\n    {'x' * 99}\n    y\nb: one\n    two\n"
    assert run("models", "pull", "embedded/tiny-random")[0] == 0


NAMES = """
import atexit, sys
from testronaut_llm.cli import main
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
main()
"""
SLOW = {"litellm", "openai", "anthropic", "tokencost", "requests", "azure.identity"}
FOR_ANSWERS = {"tiktoken", "jsonschema", "psutil", "diskcache", "ollama", "pydantic"}


@pytest.mark.parametrize(
    ("words", "heavy"), [("--help", SLOW | FOR_ANSWERS), ("route cli_analysis hi", SLOW), ("check", SLOW)]
)
def test_a_command_loads_no_library_that_it_does_not_need(words: str, heavy: set[str]) -> None:
    """LiteLLM takes seconds to load; `route` and `check` need it only for --params, and --help needs less."""
    loaded = program("-c", NAMES, *words.split()).stderr.splitlines()[-1].split()
    assert "testronaut_llm.cli" in loaded
    assert not heavy & set(loaded)


def test_where_nothing_is_ready_a_free_way_is_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "the same command with --model embedded/smollm2-135m"
    code, out, err = run("run", "default", "hi")
    assert (code, out) == (2, "")
    assert "export ANTHROPIC_API_KEY='your key'" in err
    assert f"testronaut-llm models pull embedded/smollm2-135m\n  then {asked} --max-tokens 200 (a weak model)\n" in err
    assert f"then {asked} (a weak model)\n" in run("classify", "default", "hi", "--label", "a", "--label", "b")[2]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    steps = f"{paths.install('embedded')}; then testronaut-llm models pull embedded/smollm2-135m"
    assert steps.replace("; then", "\n  then") in run("run", "default", "hi")[2]
    for command in ("bench", "verify"):
        code, out, err = run("models", command, "embedded/smollm2-135m")
        assert (code, out, err.endswith(f"{steps}\n"), err.count("\n")) == (1, "", True, 1)
    monkeypatch.undo()
    monkeypatch.setattr(ModelStore, "get", lambda *_: SimpleNamespace(sha256="0"))
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(Path("llm.yaml").absolute()))
    assert f"without any key: {asked}" in run("run", "default", "hi")[2]


def test_one_constant_says_how_to_install() -> None:
    """Until the name is registered, no text names it for an install; a release changes one constant."""
    assert paths.install("embedded") == "pip install '.[embedded]' (in the source folder of testronaut-llm)"
    root = Path(paths.__file__).parents[2]
    advice = re.compile(r"pip install [^`\n]*((?<![\w/])testronaut-llm|\[(embedded|azure|otel|testing)\])")
    by_path = re.compile(r"pip install '?(/path/to/testronaut-llm|testronaut-llm\[testing\] @ git\+)")
    files = [*root.glob("testronaut_llm/**/*.py"), *root.glob("docs/**/*.md"), root / "README.md"]
    text = "\n".join(file.read_text("utf-8") for file in files if file != Path(paths.__file__))
    assert [line for line in text.splitlines() if advice.search(line) and not by_path.search(line)] == []
    (command,) = re.findall(r"sed -i 's/(.*)/(.*)/' (.*)", (root / ".github/workflows/release.yml").read_text())
    changed = re.sub(command[0], command[1], (root / command[2]).read_text(), flags=re.MULTILINE)
    assert '\nSOURCE = "testronaut-llm"\n' in changed


MISTAKES = {
    "run cli_analisys hi": "did you mean `cli_analysis`",
    "run cli_analysis": "exactly one of them",
    "run cli_analysis --file missing.txt": "cannot read missing.txt",
    "run cli_analysis hi --schema llm.yaml": "is not JSON",
    "run cli_analysis hi --schema list.json": "expected a JSON Schema object",
    "run cli_analysis hi --max-cost much": "expected USD",
    "run cli_analysis hi --cache never": "never",
    "run cli_analysis hi --no-cache --cache only": "--no-cache and --cache only were given",
    "run cli_analysis hi --model god": "did you mean `good`",
    "run cli_analysis hi --summary no/summary.md": "cannot write no/summary.md",
    "run cli_analysis --batch in.jsonl": "go together, without",
    "run cli_analysis x --dry-run": "--dry-run goes with --batch FILE, without a prompt",
    "run cli_analysis --batch in.jsonl --dry-run --summary s.md": "--stream and --summary\n",
    "run cli_analysis --batch in.jsonl --out out.jsonl --concurrency 0": "concurrency is 0",
    "run cli_analysis --batch in.jsonl --out llm.yaml": "llm.yaml is not a file of answers",
    "run cli_analysis --batch in.jsonl --out no/out.jsonl": "cannot use no/out.jsonl",
    "classify cli_analysis hi --label a": "1 label; expected 2 to 26",
    "classify cli_analysis hi --label a --label a=again": "names one label twice",
    "classify cli_analysis hi --label a --label b --expect c": "--expect is 'c'; expected one of a, b",
    "classify cli_analysis hi --label a --label b --votes 0": "votes is 0",
    "classify cli_analysis hi --label a --label b --min-confidence 2": "min_confidence is 2.0",
    "compare ? -f in.jsonl -m good": "--file",
    "compare ?": "--models",
    "compare ? -m good,god": "did you mean `good`",
    "compare -f none -m good": "cannot read none",
    "compare -f empty.jsonl -m good": "no prompt",
    "compare -f llm.yaml -m good": "llm.yaml:1 is not JSON",
    "config set models.good [good": "models.good: the new value is not valid YAML",
    "config show tasks.nothing": "tasks has no 'nothing'; known: cli_analysis, default",
    "spend prune --older-than -5d": "older_than is '-5d'; expected a day",
    "cache clear --older-than long --yes": "such as 30d",
    "models pull openai/gpt": "cannot be pulled",
    "models pull ollama/x --name y": "keeps its name",
    "models remove": "give the name of a model",
    "prices show openai/no-such-model": "openai/no-such-model has no known price\n",
    "prices show keyless": "per million tokens, to models.keyless in llm.yaml",
    "init": "--force",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_message_and_nothing_is_sent(
    run: Run, folder: Path, edit: Edit, endpoint: Endpoint, words: str
) -> None:
    edit("claude-haiku-4-5", "no-such-model")
    before = (folder / "llm.yaml").read_text()
    for name, text in {"list.json": "[]", "in.jsonl": '"a"', "empty.jsonl": "\n\n"}.items():
        Path(name).write_text(text)
    code, out, err = run(*words.split())
    assert (code, out, MISTAKES[words] in err, endpoint.requests) == (2, "", True, []), err
    assert (folder / "llm.yaml").read_text() == before


def test_nothing_ends_in_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = [KeyboardInterrupt(), ValueError(f"a bug and {KEY}")]

    def broken() -> None:
        raise raised.pop()

    monkeypatch.setattr(sys.modules["testronaut_llm.cli.app"], "app", broken)
    code, out, err = run("check")
    assert (code, out, err.count("\n"), KEY in err) == (1, "", 1, False)
    assert re.search(r"ValueError in .*test_run\.py:\d+", err)
    assert run("check") == (130, "", "")


OLLAMA = ("models pull ollama/qwen3", "models remove ollama/qwen3")
ELSEWHERE = ("models pull https://models.example.com/a.gguf", "prices update https://prices.example.com/map.json")


@pytest.mark.parametrize(
    ("proxy", "ollama", "says", "commands"),
    [
        ("socks://user:hunter2@proxy:1", "https://ollama.example.com", "ALL_PROXY names a proxy", OLLAMA + ELSEWHERE),
        ("", "http://[x", "the endpoint of OLLAMA_HOST is not an http or https URL", OLLAMA),
    ],
)
def test_an_address_that_cannot_be_used_stops_only_what_needs_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, proxy: str, ollama: str, says: str, commands: tuple[str, ...]
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    works = [run(*words.split()) for words in ("check", "run cli_analysis hi", "models list")]
    fails = [run(*words.split()) for words in commands]
    assert [code for code, *_ in works] == [0, 0, 0]
    assert says in works[0][2] + works[2][2]
    assert all(code in (1, 2, 5) and says in err for code, _, err in fails), fails
    assert "hunter2" not in str((works, fails))
