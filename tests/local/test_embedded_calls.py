"""Calls of an embedded model: in each mode, and of a private task in a whole process, which stays on loopback."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures_local import TINY
from manager_kit import MODES, ask, manager
from pydantic import BaseModel


class Verdict(BaseModel):
    passed: bool


@pytest.mark.usefixtures("home")
async def test_a_call_in_each_mode() -> None:
    texts = ["list files", "remove files", "list files"]
    async with manager({"m": {"model": f"embedded/{TINY}"}}, max_tokens=400, retries=0) as llm:
        answers = [await ask(llm, mode, "list files") for mode in MODES]
        shaped = [await ask(llm, mode, "Did it pass?", schema=Verdict) for mode in MODES[:2]]
        vectors = [llm.embed("t", texts).vectors, (await llm.aembed("t", texts)).vectors]
    for answer in answers:
        assert answer.text == answers[0].text != ""
        assert (answer.finish_reason, answer.cost, answer.usage.estimated) == ("stop", 0, False)
        assert min(answer.usage.prompt_tokens, answer.usage.completion_tokens) > 0
    assert [(type(one.parsed), len(one.attempts)) for one in shaped] == [(Verdict, 1)] * 2
    assert vectors[0] == vectors[1]
    assert [len(vector) for vector in vectors[0]] == [64] * 3
    assert vectors[0][0] == vectors[0][2] != vectors[0][1]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("of_model", "of_provider", "slots"), [(2, None, 2), (None, 2, 2), (None, None, 1)])
def test_there_are_as_many_slots_as_the_limits_let_through(of_model: Any, of_provider: Any, slots: int) -> None:
    row = {"model": f"embedded/{TINY}", "limits": {"concurrency": of_model}}
    with manager({"m": row}, limits={"embedded": {"concurrency": of_provider}}, max_tokens=200) as llm:
        llm.warm_up("m")
        assert llm.complete("t", "hi").text
        (server,) = llm._caller.services.local.runner.pool.servers.values()
    assert server.settings["slots"] == slots


PROVIDERS = ("OPENAI", "ANTHROPIC", "AZURE", "GEMINI", "MISTRAL", "GROQ")
KEYS = {f"{name}_API_KEY": "sk-canary-0123456789abcdefghijklmn" for name in PROVIDERS}
WATCHED = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        print(event, arguments[-1] if event.startswith("socket.connect") else arguments[0], file=sys.stderr)
sys.addaudithook(watch)
from testronaut_llm.cli import main
main()
"""
CLOUD = "openai/gpt-4o-mini, anthropic/claude-haiku-4-5, azure/deployment, gemini/gemini-2.5-flash, mistral/small"


@pytest.mark.usefixtures("home")
def test_a_private_task_speaks_to_loopback_only(tmp_path: Path) -> None:
    """Keys are set and cloud models are listed first. With strace, contacts of the model server are checked, too."""
    file, trace = tmp_path / "llm.yaml", tmp_path / "trace"
    file.write_text(f"tasks:\n  t: {{private: true, strategy: as_listed, models: [{CLOUD}, embedded/{TINY}]}}\n")
    strace = ["strace", "-f", "-q", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace)]
    may_trace = shutil.which("strace") and not subprocess.run([*strace, "true"], check=False, stderr=-3).returncode
    command = [sys.executable, "-c", WATCHED, "run", "t", "hello there", "--config", str(file)]
    command = [*(strace if may_trace else []), *command]
    variables = os.environ | KEYS | {"AZURE_API_BASE": "https://a.openai.azure.com"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=110, check=False)
    assert (done.returncode, bool(done.stdout.strip())) == (0, True), done.stderr
    contacts = [line for line in done.stderr.splitlines() if line.startswith("socket.")]
    assert any("127.0.0.1" in line for line in contacts)
    assert [one for one in contacts if not re.search(r"127\.0\.0\.1|localhost|^socket\.connect /|'::1'", one)] == []
    if may_trace:
        addresses = set(re.findall(r"sin6?_port=htons\(\d+\).*?\"([0-9a-f.:]+)\"", trace.read_text()))
        assert addresses
        assert all(ipaddress.ip_address(one).is_loopback for one in addresses), addresses
