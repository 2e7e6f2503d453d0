"""What every folder of tests shares: the servers, what a test needs, and how long it may take.

Every server ends by asking the host what is left of it (`e2e/leftovers.py`).
"""

import compileall
import gc
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

import quiltfn
from e2e.server import GVISOR, RUNSC, Server, watched, why_not
from quiltfn.store.calls import record_list
from quiltfn.store.database import steps

# Whoever runs the tests may have stored a server and a key, which no command of a test may ask.
NO_PROFILES = tempfile.TemporaryDirectory(prefix="quiltfn-config-")
os.environ["XDG_CONFIG_HOME"] = NO_PROFILES.name
os.environ.pop("QUILTFN_PROFILE", None)
# A run in the background (`&`, nohup) ignores these signals, and so would each program that a test
# starts and then interrupts. A program gets the default for a signal that has a handler here.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)
# A machine that is busy with other work is no reason to fail.
ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("any machine", ANY_MACHINE)
settings.load_profile("any machine")
# An error is logged as a server logs it. By itself structlog draws what every variable held, which
# takes half a second of each.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stream-mib",
        type=int,
        default=64,
        help="How long the stream is that a slow reader gets in test_connection.py, in MiB.",
    )
    parser.addoption(
        "--pictures",
        metavar="DIRECTORY",
        help="Where tests/browser puts pictures of the pages; without it, it takes none.",
    )
    parser.addoption(
        "--fleet",
        action="store_true",
        help="Has tests/spec and tests/e2e/test_story.py ask three nodes of a fleet, any with each "
        "request.",
    )


NEED_SERVERS = {Path(__file__).parent / name for name in ("browser", "e2e", "fleet", "spec")}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where no real server can be started, what needs one is skipped and says why."""
    reason = why_not()
    if not reason and any(NEED_SERVERS & set(item.path.parents) for item in items):
        compile_changed()
    for item in items:
        one_server = item.get_closest_marker("one_server")
        if one_server and config.getoption("--fleet"):
            item.add_marker(pytest.mark.skip(reason=one_server.args[0]))
        if reason and NEED_SERVERS & set(item.path.parents):
            item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("gvisor") and not os.access(RUNSC, os.X_OK):
            item.add_marker(pytest.mark.skip(reason=f"needs {RUNSC}: apt install runsc"))


def pytest_collection_finish() -> None:
    """What is imported stays, as in a server: garbage is looked for in what tests make alone. What
    imports left is collected before, so that it is told of what was not closed.
    """
    gc.collect()
    gc.freeze()


def compile_changed() -> None:
    """Compiles what of the package was edited since it was compiled, once: servers run as a user
    who can write nothing into the checkout, and each would compile it again.
    """
    compileall.compile_dir(Path(quiltfn.__file__).parent, quiet=1)


@pytest.fixture(autouse=True)
def whole_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a list in this process does not end early because the machine is busy."""
    for module, name in (
        (steps, "STEPS_S"),
        (record_list, "ROWS_S"),
    ):
        monkeypatch.setattr(module, name, 60.0)


def gvisor(request: pytest.FixtureRequest) -> str:
    """The option for a server, where a test that the fixture is made for has the marker."""
    here = request.node
    tests = (here,) if isinstance(here, pytest.Item) else request.session.items
    of_here = (one for one in tests if here in (one, one.parent))
    return GVISOR if any(one.get_closest_marker("gvisor") for one in of_here) else ""


@pytest.fixture(scope="session")
def _servers() -> Iterator[Callable[[str], Server]]:
    """Servers for the session: one without options, one that looks for gVisor."""
    with ExitStack() as stack:
        started = cache(lambda options: stack.enter_context(watched(options)))
        yield started


@pytest.fixture(scope="module")
def shared(_servers: Callable[[str], Server], request: pytest.FixtureRequest) -> Iterator[Server]:
    """The session's server, for tests that leave it as they found it; only functions and runtimes
    may stay, until the end of the module.
    """
    server = _servers(gvisor(request))
    yield server if server.process else server.start()
    server.clear()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of the test's own, to be broken as it likes."""
    with watched(gvisor(request)) as server:
        yield server.start()


@pytest.fixture
def another(request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """Makes further servers, not started yet, with what `watched` takes."""
    with ExitStack() as stack:
        yield lambda options="", kind=Server, **more: stack.enter_context(
            watched(f"{gvisor(request)} {options}", kind, **more)
        )
