"""Keys are read late, from the source in the file, sent to their own provider only, and never in a message."""

from __future__ import annotations

import os
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
from manager_kit import a_model
from pydantic import SecretStr

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import MissingCredentialError
from testronaut_llm.local.readiness import readiness
from testronaut_llm.providers.credentials import Credentials, UnreadableError, key_source, resolve_key, run_command
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.support.paths import install

CANARY = "canary-key-0123456789"
GATEWAY, LOOPBACK, LAN = "https://gateway.example/v1", "http://127.0.0.1:8080/v1", "http://192.168.1.20:11434"
AZURE = {"api_base": "https://r.openai.azure.com"}


def key_of(model: ModelConfig) -> str | None:
    secret = resolve_key(model, provider_of(model))
    assert CANARY not in repr(secret)
    return secret.get_secret_value() if secret else None


def refusal(model: ModelConfig) -> str:
    """Returns the message without the alias, and asserts that no part of the error holds the key."""
    with pytest.raises(MissingCredentialError) as caught:
        key_of(model)
    error = caught.value
    assert CANARY not in f"{error} {error!r} {vars(error)} {error.__cause__} {error.__context__}"
    assert (error.model, error.provider) == ("mine", model.provider)
    return str(error).removeprefix("mine: ")


OPENAI, OLLAMA = {"OPENAI_API_KEY": CANARY}, {"OLLAMA_API_KEY": CANARY}
NO_KEY = "needs no key"
OURS, ALSO_OURS = "key from OPENAI_API_KEY", "key from OLLAMA_API_KEY"
NOT_OURS, NOR_OURS = (
    f"{name} is not sent there without `api_key_env: {name}`" for name in ("OPENAI_API_KEY", "OLLAMA_API_KEY")
)
SENT: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
    ("openai/x", {}, {"OPENAI_API_KEY": f" {CANARY}\n"}, OURS),
    ("gemini/x", {}, {"GOOGLE_API_KEY": "second", "GEMINI_API_KEY": CANARY}, "key from GEMINI_API_KEY"),
    ("openai/x", {"api_key_env": "MY_KEY"}, {"OPENAI_API_KEY": "usual", "MY_KEY": CANARY}, "key from MY_KEY"),
    # `openai/` also stands for other people's servers: they get the key only by name, or by the user's own variable
    ("openai/x", {"api_base": GATEWAY}, OPENAI, NOT_OURS),
    ("openai/x", {"api_base": GATEWAY, "api_key_env": "OPENAI_API_KEY"}, OPENAI, OURS),
    ("openai/x", {}, {**OPENAI, "OPENAI_BASE_URL": GATEWAY}, OURS),
    ("openai/x", {}, {"OPENAI_BASE_URL": GATEWAY}, NO_KEY),
    ("openai/x", {"api_base": LOOPBACK}, OPENAI, OURS),
    ("openai/x", {"api_base": LOOPBACK}, {}, NO_KEY),
    ("openai/x", {"api_base": LOOPBACK, "trusted": False}, OPENAI,
     "no key: OPENAI_API_KEY is not sent to its api_base until llm.yaml is trusted"),
    ("anthropic/x", {"api_base": LOOPBACK}, {}, NO_KEY),
    ("anthropic/x", {"api_base": "http://proxy.example"},
     {"ANTHROPIC_API_KEY": CANARY, "TESTRONAUT_LLM_ALLOW_HTTP_KEYS": "1"}, "key from ANTHROPIC_API_KEY"),
    # a server of one's own works without the key of Ollama's cloud, wherever it is named
    ("ollama/x", {"api_base": LAN}, OLLAMA, NOR_OURS),
    ("ollama/x", {}, {**OLLAMA, "OLLAMA_HOST": LAN}, NOR_OURS),
    ("ollama/x", {}, OLLAMA, NOR_OURS),
    ("ollama/x", {"api_base": "https://ollama.com"}, OLLAMA, ALSO_OURS),
    ("ollama/x", {"api_base": "https://box.example", "api_key_env": "OLLAMA_API_KEY"}, OLLAMA, ALSO_OURS),
    ("embedded/x", {}, {}, NO_KEY),
]  # fmt: skip


def test_a_key_is_sent_to_its_own_provider_only() -> None:
    for reference, fields, environment, note in SENT:
        model = a_model(reference, **fields)
        with patch.dict(os.environ, environment):
            assert key_source(model, provider_of(model)).note == note
            assert key_of(model) == (CANARY if note.startswith("key from") else None)


NONE_OF = "none of AZURE_API_KEY, AZURE_OPENAI_API_KEY is set"
IN_THE_OPEN = "the key would be sent to 'proxy.example' over plain http"
REFUSED: list[tuple[str, dict[str, Any], dict[str, str], str, str]] = [
    ("openai/x", {}, {"OPENAI_API_KEY": "  "}, "OPENAI_API_KEY is not set", "export OPENAI_API_KEY='your key'"),
    ("azure/x", AZURE, {}, NONE_OF, "export AZURE_API_KEY='your key'"),
    ("openai/x", {"api_key_env": "MY_KEY"}, OPENAI, "MY_KEY is not set", "export MY_KEY='your key'"),
    ("anthropic/x", {"api_base": "HTTP://proxy.example"}, {"ANTHROPIC_API_KEY": CANARY}, IN_THE_OPEN,
     "use https in api_base, or accept the risk with: export TESTRONAUT_LLM_ALLOW_HTTP_KEYS=1"),
    ("openai/x", {"api_key_command": "no-such-program x"}, {}, "api_key_command 'no-such-program' is not on PATH",
     "install 'no-such-program' or fix the line"),
    ("openai/x", {"api_key_command": "pass 'show"}, {},
     "api_key_command is not a command line (No closing quotation)", "fix its quotes"),
    ("openai/x", {"api_key_command": "  "}, {}, "api_key_command is empty", "api_key_command: pass show openai"),
]  # fmt: skip


def test_what_is_missing_is_named_with_the_line_that_fixes_it() -> None:
    for reference, fields, environment, missing, fix in REFUSED:
        model = a_model(reference, **fields)
        with patch.dict(os.environ, environment):
            assert refusal(model) == f"{missing}; {fix}"
            found = readiness(model)
            assert (found.ready, found.missing, found.fix) == (False, missing, fix)


def test_a_key_in_the_place_of_a_name_is_not_shown() -> None:
    for pasted in ("gsk_" + "a1B2c3D4" * 6, "sk-not a name"):
        assert pasted not in refusal(a_model().model_copy(update={"api_key_env": pasted}))


def test_a_file_is_the_owners_alone_and_holds_the_key_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = tmp_path / "a key", a_model(api_key_file=str(tmp_path / "a key"))
    monkeypatch.setenv("HOME", str(tmp_path))
    path.write_text(f"{CANARY}\n")
    for mode in (0o640, 0o604):
        path.chmod(mode)
        assert refusal(model).endswith(f"(mode {mode:04o}); chmod 600 '{path}'")
    for mode in (0o400, 0o600):
        path.chmod(mode)
        assert key_of(model) == key_of(a_model(api_key_file="~/a key")) == CANARY
    assert readiness(model).note == "key from api_key_file"
    for text in (" \n", f"{CANARY}\nline", f"two {CANARY}", f"{CANARY}\x00", f"{CANARY}é"):
        path.write_text(text)
        assert ("holds more than a key" if text.strip() else "holds no key; put the key there") in refusal(model)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, words in {"none": "cannot be read (No such file", ".": "is not a file", "pipe": "is not a file"}.items():
        assert words in refusal(a_model(api_key_file=str(tmp_path / name)))


def command(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def test_a_command_prints_the_key_and_is_no_shell() -> None:
    code = f"import sys; print('a warning', file=sys.stderr); print('+'.join([{CANARY!r}, *sys.argv[1:]]))"
    model = a_model(api_key_command=f"{command(code)} $HOME;id")
    assert key_of(model) == f"{CANARY}+$HOME;id"
    assert readiness(model).note == "key from api_key_command"


def test_a_command_that_fails_hangs_or_is_no_program_is_named(tmp_path: Path) -> None:
    """Its stderr and arguments may hold the secret, so they are not shown."""
    model = a_model(api_key_command=command(f"import sys; sys.exit({CANARY!r})"))
    assert refusal(model).endswith("ended with status 1; run the command by hand to see why")
    assert readiness(model).ready, "readiness does not run commands"
    with pytest.raises(UnreadableError, match=r"gave no key within 0\.2 seconds"):
        run_command("sleep 600", timeout=0.2)
    (tmp_path / "broken").write_bytes(b"\x7fELF")
    (tmp_path / "broken").chmod(0o700)
    assert "cannot be run" in refusal(a_model(api_key_command=str(tmp_path / "broken")))


def test_what_a_command_printed_is_used_for_some_minutes(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    script = f"echo >> '{runs}'; sleep 0.05; echo key-$(wc -l < '{runs}')"
    model, now = a_model(api_key_command=shlex.join(["sh", "-c", script])), 0.0
    credentials, asked = Credentials(remember=300, clock=lambda: now), (model, provider_of(model))
    with ThreadPoolExecutor(4) as pool:
        first = [pool.submit(credentials.key, *asked) for _ in range(4)]
    assert {one.result() for one in first} == {SecretStr("key-1")}
    now = 301.0
    assert credentials.key(*asked) == SecretStr("key-2")
    credentials.forget()
    assert credentials.key(*asked) == SecretStr("key-3")
    assert key_of(model) == "key-4"


def test_azure_without_a_key_uses_entra_id_when_the_environment_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.core.exceptions import ClientAuthenticationError

    tokens = Mock(side_effect=["token-1", "token-2", ClientAuthenticationError(f"long story with {CANARY}")])
    identity = Mock(get_bearer_token_provider=Mock(return_value=tokens))  # azure-identity would go to the network
    monkeypatch.setitem(sys.modules, "azure.identity", identity)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: identity)
    model = a_model("azure/x", **AZURE)
    provider = provider_of(model)
    with closing(Credentials()) as credentials:
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "dev")
        assert readiness(model).note.startswith("Entra ID, because AZURE_TOKEN_CREDENTIALS is set")
        assert not identity.DefaultAzureCredential.called
        token = credentials.key(model, provider)
        assert callable(token)
        assert credentials.key(model, provider) is token
        assert (token(), token()) == ("token-1", "token-2")
        credential = identity.DefaultAzureCredential.return_value
        scope = "https://cognitiveservices.azure.com/.default"
        identity.get_bearer_token_provider.assert_called_once_with(credential, scope)
        message = r"token \(ClientAuthenticationError\); try: az login"
        with pytest.raises(MissingCredentialError, match=message) as caught:
            token()
        assert CANARY not in str(caught.value)
        monkeypatch.setenv("AZURE_API_KEY", CANARY)
        assert credentials.key(model, provider) == SecretStr(CANARY)
    credential.close.assert_called_once_with()


def test_without_azure_identity_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", Mock(side_effect=ModuleNotFoundError("azure")))
    monkeypatch.setenv("AZURE_CLIENT_ID", "c")
    model = a_model("azure/x", **AZURE)
    assert readiness(model).fix == install("azure")
    with pytest.raises(MissingCredentialError, match="needs azure-identity"):
        Credentials().key(model, provider_of(model))
