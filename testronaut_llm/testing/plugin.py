"""The pytest plugin: fixtures `llm_manager`, `llm_fake`, `llm_cassette` and `llm_network`, and their options.

Only pytest is imported here, since pytest loads this module in every project that has the package installed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testronaut_llm.llm_manager import LLMManager
    from testronaut_llm.testing.cassettes import Cassette, NetworkGuard
    from testronaut_llm.testing.fake import FakeLLM

_FAILED = pytest.StashKey[bool]()
_LEDGER = pytest.StashKey[Any]()
_ORPHANS = pytest.StashKey[list[Path]]()
_PART_OF_A_RUN = ("keyword", "markexpr", "lf", "deselect", "ignore", "ignore_glob")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("testronaut-llm")
    group.addoption(
        "--llm-record",
        choices=("none", "once", "refresh"),
        default="none",
        help="none: replay cassettes only (the default); once: record missing ones; refresh: record again",
    )
    group.addoption(
        "--llm-summary", metavar="FILE", help="add calls, hits, cost and failures to this file, as Markdown"
    )
    group.addoption("--llm-budget", default="1.00", metavar="USD", help="for all recording of this session (1.00)")
    parser.addini("llm_config", "the llm.yaml of the fixtures `llm_manager` and `llm_fake` (default: found as always)")
    parser.addini("llm_cassettes", "folder of the cassettes", default="cassettes")
    parser.addini("llm_block_network", "block the network except loopback for the whole session", "bool")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "llm_cassette(name, ignored=(), recorded_from='', play_all=True): the cassette to use instead of the one named "
        "after the test, body fields that its match leaves out, and the real server it is recorded from",
    )
    if config.getini("llm_block_network") and not _records(config):
        from testronaut_llm.testing.cassettes import network_guard

        guards = ExitStack()
        guards.enter_context(network_guard())
        config.add_cleanup(guards.close)


def _records(config: pytest.Config) -> bool:
    return bool(config.getoption("--llm-record") != "none")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or bool(report.failed)
    name = call.excinfo.typename if call.excinfo else ""
    if name == "BudgetExceededError" and _records(item.config):
        report.sections.append(("recording", "a budget for all recording of this session: --llm-budget=USD"))
    if call.excinfo and report.failed and name in ("CassetteMissError", "UnplayedRecordingError"):
        from testronaut_llm.testing.cassettes import THIS_TEST

        own = [one for one in call.excinfo.traceback if Path(one.path) == item.path]  # without our own frames
        where = f"{item.location[0]}:{own[-1].lineno + 1}" if own else item.nodeid
        report.longrepr = f"{where}: {name}\n{call.excinfo.value}".replace(THIS_TEST, f"'{item.nodeid}'")
    return report


def cassette_path(item: pytest.Item) -> Path:
    """Returns the file that a test's fixture `llm_cassette` opens: from its marker, or `<module>/<test>.yaml`."""
    folder: Path = item.config.rootpath / item.config.getini("llm_cassettes")
    marker = item.get_closest_marker("llm_cassette")
    if marker and marker.args:
        return folder / f"{marker.args[0]}.yaml"
    name = re.sub(r"[^\w.-]+", "-", item.nodeid.rpartition(".py::")[2]).strip("-")
    return folder / item.path.stem / f"{name}.yaml"


@pytest.fixture
def llm_cassette(request: pytest.FixtureRequest) -> Iterator[Cassette]:
    """The open cassette of this test: all HTTP calls of the process are replayed from it or recorded."""
    from testronaut_llm.testing.cassettes import use_cassette

    item = request.node
    marker = item.get_closest_marker("llm_cassette")
    options = dict(marker.kwargs) if marker else {}
    play_all = options.pop("play_all", True)
    mode = request.config.getoption("--llm-record")
    with use_cassette(cassette_path(item), mode=mode, play_all=False, **options) as opened:
        yield opened
        if item.stash.get(_FAILED, False):
            opened.dirty = False  # recordings of a failing test are not stored
    if play_all and not item.stash.get(_FAILED, False):
        opened.check_all_played()


@pytest.fixture
def llm_manager(request: pytest.FixtureRequest, llm_cassette: Cassette, _llm_home: Path) -> Iterator[LLMManager]:
    """An `LLMManager` of the project's `llm.yaml` that is replayed from this test's cassette, or recorded into it.

    A replay needs no key and no server. Nothing is cached, and each replay has a ledger of its own.
    """
    from testronaut_llm.config.sections import BudgetConfig
    from testronaut_llm.config.source import ConfigSource
    from testronaut_llm.llm_manager import LLMManager
    from testronaut_llm.money.ledger import Ledger

    path = _config_file(request.config)
    if llm_cassette.write_protected:
        made = LLMManager(path, offline=True)
    else:
        llm_cassette.leave_out_listings()
        ledger = request.config.stash.setdefault(_LEDGER, Ledger(None))
        limit = Decimal(request.config.getoption("--llm-budget"))  # may be 0, which the file may not say
        budget = BudgetConfig(scope="recording").model_copy(update={"total": limit})
        config = ConfigSource.find(path).current().model_copy(update={"budget": budget})
        made = LLMManager(config=config, ledger=ledger)
    with made, _counted(request.node, made):
        yield made


@pytest.fixture
def llm_fake(request: pytest.FixtureRequest, _llm_home: Path) -> Iterator[FakeLLM]:
    """A `FakeLLM` with the models, tasks and prices of `llm_config`, or with one free model if that is not set."""
    from testronaut_llm.testing.fake import FakeLLM

    with FakeLLM(_config_file(request.config)) as fake, _counted(request.node, fake):
        yield fake


@contextmanager
def _counted(item: pytest.Item, llm: LLMManager) -> Iterator[None]:
    """Adds what a test's calls did to its properties, which the JUnit file and the summary show."""
    before = llm.session.cost  # managers that record share a ledger
    yield
    done = llm.session
    properties = {"llm_calls": done.calls, "llm_hits": done.hits, "llm_cost": f"{done.cost - before:f}"}
    properties |= {f"llm_failures_{kind}": count for kind, count in done.failures.items()}
    item.user_properties += properties.items()


def _config_file(config: pytest.Config) -> Path | None:
    path = config.getini("llm_config")
    return config.rootpath / path if path else None


@pytest.fixture
def _llm_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for ledger, cache and what is learned, instead of the user's; stored models can still be used."""
    from testronaut_llm.support import paths

    models = paths.data_dir() / "models"
    home = tmp_path_factory.mktemp("testronaut")
    if models.is_dir():
        (home / "data").mkdir()
        (home / "data" / "models").symlink_to(models.resolve())
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(home))
    return home


@pytest.fixture
def llm_network(request: pytest.FixtureRequest) -> Iterator[NetworkGuard]:
    """The network is blocked for this test; `.connects` and `.blocked` list the connections.

    A test fails if `.blocked` is not empty, even if its code ignored the error.
    """
    from testronaut_llm.testing.cassettes import NetworkGuard, network_guard

    if _records(request.config):  # recording needs the network
        yield NetworkGuard()
        return
    with network_guard() as guard:
        yield guard
    if guard.blocked and not request.node.stash.get(_FAILED, False):
        pytest.fail(f"this test tried to connect to other machines: {guard.blocked}")


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    partial = config.args_source is pytest.Config.ArgsSource.ARGS or hasattr(config, "workerinput")
    if partial or any(config.getoption(name, None) for name in _PART_OF_A_RUN):
        return
    used = {cassette_path(item) for item in session.items if "llm_cassette" in getattr(item, "fixturenames", ())}
    folder = config.rootpath / config.getini("llm_cassettes")
    config.stash[_ORPHANS] = sorted(set(folder.rglob("*.yaml")) - used)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.stash.get(_ORPHANS, []) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _write_summary(terminalreporter: pytest.TerminalReporter, file: Path) -> None:
    from testronaut_llm.support.text import usd
    from testronaut_llm.telemetry.log import append_summary

    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for report in [one for many in terminalreporter.stats.values() for one in many]:
        for name, value in report.user_properties if getattr(report, "when", "") == "teardown" else ():
            if name in ("llm_calls", "llm_hits", "llm_cost") or name.startswith("llm_failures_"):
                sums[name] += Decimal(value)
    failures = {name.removeprefix("llm_failures_"): int(count) for name, count in sums.items() if "_failures_" in name}
    counts = {"calls": int(sums["llm_calls"]), "hits": int(sums["llm_hits"])}
    try:
        append_summary(file, "pytest", **counts, cost=usd(sums["llm_cost"]), failures=failures)
    except OSError as error:
        terminalreporter.line(f"--llm-summary: cannot write {file}: {error.strerror}", red=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    file = config.getoption("--llm-summary")
    if file and not hasattr(config, "workerinput"):  # the process that starts the workers has all reports
        _write_summary(terminalreporter, Path(file))
    orphans = config.stash.get(_ORPHANS, [])
    if orphans:
        terminalreporter.section("cassettes that no test uses: delete them, or name them in a test", red=True)
        for path in orphans:
            terminalreporter.line(str(path.relative_to(config.rootpath)))
