"""Keys come late, from where the file says, and never show in a message."""

from __future__ import annotations

import os
import shlex
import sys
import threading
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import SecretStr

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import MissingCredentialError
from testronaut_llm.providers import secret_readers
from testronaut_llm.providers.credentials import Credentials, resolve_key
from testronaut_llm.providers.provider_registry import Provider, provider_of, readiness

CANARY = "canary-key-0123456789"


def a_model(reference: str = "openai/gpt", **fields: Any) -> ModelConfig:
    return ModelConfig(alias="mine", model=reference, **fields)


def key_of(model: ModelConfig) -> str | None:
    secret = resolve_key(model, provider_of(model))
    return secret.get_secret_value() if secret else None


def refusal(model: ModelConfig) -> MissingCredentialError:
    """The error, after a look that readiness says the same where it can know."""
    with pytest.raises(MissingCredentialError) as caught:
        key_of(model)
    error = caught.value
    assert CANARY not in f"{error} {error!r} {vars(error)} {error.__cause__} {error.__context__}"
    return error


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "a key"
    path.write_text(f"{CANARY}\n")
    path.chmod(0o600)
    return path


def command_that(tmp_path: Path, code: str) -> str:
    script = tmp_path / "print_key.py"
    script.write_text(code)
    return shlex.join([sys.executable, str(script)])


# Variables


def test_the_usual_variable_holds_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the usual names that is set wins; blanks around a key are not part of it; each call looks anew."""
    assert str(refusal(a_model())) == "mine: OPENAI_API_KEY is not set; export OPENAI_API_KEY=<your key>"
    monkeypatch.setenv("OPENAI_API_KEY", f" {CANARY}\n")
    assert key_of(a_model()) == CANARY
    assert CANARY not in f"{resolve_key(a_model(), provider_of(a_model()))!r}"
    monkeypatch.setenv("OPENAI_API_KEY", "new-key")
    assert key_of(a_model()) == "new-key"
    monkeypatch.setenv("GOOGLE_API_KEY", "second")
    assert key_of(a_model("gemini/x")) == "second"
    monkeypatch.setenv("GEMINI_API_KEY", "first")
    assert key_of(a_model("gemini/x")) == "first"


def test_another_variable_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`api_key_env` replaces the usual one; whoever pastes the key itself there does not find it in a log."""
    monkeypatch.setenv("OPENAI_API_KEY", "usual")
    model = a_model(api_key_env="MY_KEY")
    error = refusal(model)
    assert str(error) == "mine: MY_KEY is not set; export MY_KEY=<your key>"
    assert (error.model, error.provider) == ("mine", "openai")
    assert readiness(model).missing == "MY_KEY is not set"
    monkeypatch.setenv("MY_KEY", CANARY)
    assert key_of(model) == CANARY
    for pasted in ("gsk_" + "a1B2c3D4" * 6, "sk-not a name"):
        assert pasted not in str(refusal(a_model().model_copy(update={"api_key_env": pasted})))


def test_a_row_without_variables_asks_for_one() -> None:
    """Nothing usual to set: the field that names a variable is what to write."""
    row = Provider(name="bare", default_base="https://bare.example")
    with pytest.raises(MissingCredentialError, match="no key for bare; name its variable"):
        resolve_key(a_model("bare/x"), row)


def test_what_is_no_key_is_refused_unseen() -> None:
    """A line break in a header is an attack or an accident; the value stays out of the message."""
    for value in (f"{CANARY}\nsecond line", f"two {CANARY}", f"{CANARY}\x00", f"{CANARY}é", " \n"):
        with pytest.raises(secret_readers.UnreadableError) as caught:
            secret_readers.one_word(value.encode(), "it")
        assert CANARY not in str(caught.value)
        assert str(caught.value) == ("it holds more than a key" if value.strip() else "it holds no key")


# Files


def test_a_file_of_its_owner_holds_the_key(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mode 0600 or stricter; `~` is the home."""
    assert key_of(a_model(api_key_file=str(key_file))) == CANARY
    key_file.chmod(0o400)
    monkeypatch.setenv("HOME", str(key_file.parent))
    model = a_model(api_key_file="~/a key")
    assert key_of(model) == CANARY
    assert readiness(model).note == "key from api_key_file"


@pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(key_file: Path, mode: int) -> None:
    """The message is the command, quoted for a shell."""
    key_file.chmod(mode)
    model = a_model(api_key_file=str(key_file))
    assert str(refusal(model)).endswith(f"can be read by others (mode {mode:04o}); chmod 600 '{key_file}'")
    assert readiness(model).mend == f"chmod 600 '{key_file}'"


def test_a_file_that_is_none_is_named(tmp_path: Path, key_file: Path) -> None:
    """Missing, a folder, a pipe that nobody writes to, empty, more than a key."""
    assert "cannot be read (No such file" in str(refusal(a_model(api_key_file=str(tmp_path / "none"))))
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in (tmp_path, tmp_path / "pipe"):
        assert "is not a file" in str(refusal(a_model(api_key_file=str(name))))
    key_file.write_text("")
    assert "holds no key; put the key there" in str(refusal(a_model(api_key_file=str(key_file))))
    key_file.write_text(f"{CANARY} {CANARY}")
    assert "holds more than a key" in str(refusal(a_model(api_key_file=str(key_file))))


# Commands


def test_a_command_prints_the_key(tmp_path: Path) -> None:
    """Split like a shell's line, and run without one; what it says on its error output is no part of the key."""
    code = f"import sys; print('a warning', file=sys.stderr); print('+'.join([{CANARY!r}, *sys.argv[1:]]))"
    model = a_model(api_key_command=f"{command_that(tmp_path, code)} $HOME;id")
    assert key_of(model) == f"{CANARY}+$HOME;id"
    assert readiness(model).note == "key from api_key_command"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (f"import sys; sys.stderr.write({CANARY!r}); sys.exit(3)", "ended with status 3; run the command by hand"),
        ("pass", "holds no key"),
        (f"print({CANARY!r}, 'and more')", "holds more than a key"),
    ],
)
def test_a_command_that_fails_says_so_and_nothing_else(tmp_path: Path, code: str, said: str) -> None:
    """Its error output may hold the secret, so nobody sees it; nor its arguments."""
    model = a_model(api_key_command=command_that(tmp_path, code) + " --argument-canary")
    error = refusal(model)
    assert said in str(error)
    assert "argument-canary" not in str(error)
    assert readiness(model).ready, "readiness does not run commands"


def test_a_command_that_hangs_is_given_up(tmp_path: Path) -> None:
    """A password manager that waits for somebody does not hold a call for ever."""
    hang = command_that(tmp_path, "import time; time.sleep(600)")
    with pytest.raises(secret_readers.UnreadableError, match=r"gave no key within 0\.2 seconds"):
        secret_readers.run_command(hang, timeout=0.2)


def test_a_command_that_cannot_be_run_is_known_before(tmp_path: Path) -> None:
    """`check` finds it without running anything, but for a program that is not for this machine."""
    for command, said in {
        "no-such-program-anywhere x": "'no-such-program-anywhere' is not on PATH",
        "pass 'show": "is not a command line (No closing quotation); fix its quotes",
        "  ": "api_key_command is empty",
    }.items():
        model = a_model(api_key_command=command)
        assert said in str(refusal(model))
        assert not readiness(model).ready
    program = tmp_path / "broken"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o700)
    assert "cannot be run" in str(refusal(a_model(api_key_command=str(program))))


def test_what_a_command_printed_is_used_for_some_minutes(tmp_path: Path) -> None:
    """One run for many calls and threads; a new one after the time, after `forget`, and for another object."""
    runs = tmp_path / "runs"
    code = f"open({str(runs)!r}, 'a').write('x'); print('key', len(open({str(runs)!r}).read()), sep='-')"
    model = a_model(api_key_command=command_that(tmp_path, code))
    now = 0.0
    credentials = Credentials(remember=300, clock=lambda: now)

    def ask() -> str:
        found = credentials.key(model, provider_of(model))
        assert found is not None
        return found.get_secret_value()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ask() == "key-1"
    now = 301.0
    assert ask() == "key-2"
    credentials.forget()
    assert ask() == "key-3"
    assert key_of(model) == "key-4"


# Where keys may go


@pytest.mark.parametrize("base", ["http://192.168.1.20:11434", "https://box.example", "http://127.0.0.1:11434", None])
@pytest.mark.parametrize("by", ["llm.yaml", "OLLAMA_HOST", "OLLAMA_API_BASE"])
def test_the_key_of_ollamas_cloud_stays_with_it(monkeypatch: pytest.MonkeyPatch, base: str | None, by: str) -> None:
    """A server of one's own works without it, wherever it is named; `api_key_env` sends it where that is meant."""
    monkeypatch.setenv("OLLAMA_API_KEY", CANARY)
    if base is not None and by != "llm.yaml":
        monkeypatch.setenv(by, base)
    fields = {"api_base": base} if by == "llm.yaml" else {}
    assert key_of(a_model("ollama/x", **fields)) is None
    assert key_of(a_model("ollama/x", api_base="https://ollama.com")) == CANARY
    assert key_of(a_model("ollama/x", api_base="https://box.example", api_key_env="OLLAMA_API_KEY")) == CANARY


def test_openais_key_is_not_sent_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that only speaks OpenAI's wire gets no key, however much the file is trusted."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert key_of(a_model("openai/x", api_base="https://gateway.example/v1")) is None
    assert key_of(a_model("openai/x", api_base="http://127.0.0.1:8080/v1")) == CANARY


def test_a_key_does_not_travel_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http beyond this machine is refused, whatever the key's source."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    model = a_model("anthropic/x", api_base="HTTP://proxy.example")
    assert "over plain http" in str(refusal(model))
    monkeypatch.setenv("TESTRONAUT_LLM_ALLOW_HTTP_KEYS", "1")
    assert key_of(model) == CANARY


def test_keyless_models_have_none() -> None:
    """Ollama and the embedded runner need nothing; a key for Ollama is optional."""
    assert key_of(a_model("ollama/x")) is None
    assert key_of(a_model("embedded/x")) is None


# Entra ID


class Identity:
    """Stands in for azure-identity, which would go to the network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scopes: list[str] = []
        self.closed = 0
        self.made = 0
        self.fails = False
        outer = self

        class DefaultAzureCredential:
            def __init__(self) -> None:
                outer.made += 1

            def close(self) -> None:
                outer.closed += 1

        def get_bearer_token_provider(credential: object, scope: str) -> Any:
            outer.scopes.append(scope)
            tokens = iter(range(1, 100))

            def token() -> str:
                if outer.fails:
                    from azure.core.exceptions import ClientAuthenticationError

                    raise ClientAuthenticationError(f"long story with {CANARY}")
                return f"token-{next(tokens)}"

            return token

        module = ModuleType("azure.identity")
        vars(module).update(
            DefaultAzureCredential=DefaultAzureCredential, get_bearer_token_provider=get_bearer_token_provider
        )
        monkeypatch.setitem(sys.modules, "azure.identity", module)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: module)


AZURE = {"api_base": "https://r.openai.azure.com"}


def test_azure_without_a_key_uses_entra_id_when_the_environment_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One credential, a fresh token a call; a key goes before it; nothing is asked until a call."""
    identity = Identity(monkeypatch)
    model = a_model("azure/x", **AZURE)
    provider = provider_of(model)
    with closing(Credentials()) as credentials:
        assert credentials.token_provider(a_model(), provider_of(a_model())) is None
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "dev")
        assert readiness(model).note.startswith("Entra ID, because AZURE_TOKEN_CREDENTIALS is set")
        assert identity.made == 0
        assert credentials.key(model, provider) is None
        first, second = credentials.token_provider(model, provider), credentials.token_provider(model, provider)
        assert first is not None
        assert second is not None
        assert (first(), second()) == ("token-1", "token-2")
        assert (identity.made, identity.scopes) == (1, ["https://cognitiveservices.azure.com/.default"])
        monkeypatch.setenv("AZURE_API_KEY", CANARY)
        assert credentials.token_provider(model, provider) is None
        assert credentials.key(model, provider) == SecretStr(CANARY)
    assert identity.closed == 1


def test_a_refused_identity_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """azure-identity's long story stays out; what to try is in."""
    identity = Identity(monkeypatch)
    identity.fails = True
    monkeypatch.setenv("AZURE_TENANT_ID", "t")
    model = a_model("azure/x", **AZURE)
    token = Credentials().token_provider(model, provider_of(model))
    assert token is not None
    with pytest.raises(
        MissingCredentialError, match=r"gave no token \(ClientAuthenticationError\); try: az login"
    ) as e:
        token()
    assert CANARY not in str(e.value)


@pytest.mark.parametrize("parent_is_there", [False, True])
def test_without_azure_identity_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, parent_is_there: bool) -> None:
    """Known without importing anything."""

    def find_spec(name: str) -> None:
        if not parent_is_there:
            raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    monkeypatch.setenv("AZURE_CLIENT_ID", "c")
    model = a_model("azure/x", **AZURE)
    assert readiness(model).mend == "pip install 'testronaut-llm[azure]'"
    with pytest.raises(MissingCredentialError, match="needs azure-identity"):
        Credentials().token_provider(model, provider_of(model))
