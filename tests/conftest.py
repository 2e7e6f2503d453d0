"""Shared by all folders of tests: servers, requirements of tests, and timeouts.

Every server ends with a check of what is left of it on the host (`e2e/leftovers.py`).
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

# The user who runs the tests may have stored a server and a key, which tests must not use.
NO_PROFILES = tempfile.TemporaryDirectory(prefix="quiltfn-config-")
os.environ["XDG_CONFIG_HOME"] = NO_PROFILES.name
os.environ.pop("QUILTFN_PROFILE", None)
# A run in the background (`&`, nohup) ignores these signals, and so would programs that a test
# starts and then interrupts. With a handler here, programs get the default action.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)
# A machine that is busy with other work must not make tests fail.
ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("any machine", ANY_MACHINE)
settings.load_profile("any machine")
# Errors are logged as a server logs them. By default structlog prints the values of all variables,
# which takes half a second for each error.
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
    """If no real server can be started, skip the tests that need one, and say why."""
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
    """As in a server, imported modules are excluded from garbage collection. Garbage of imports is
    collected first, so that unclosed resources are reported.
    """
    gc.collect()
    gc.freeze()


def compile_changed() -> None:
    """Compile the modules of the package that were edited, once: servers run as a user who can't
    write into the checkout, and each would compile them again.
    """
    compileall.compile_dir(Path(quiltfn.__file__).parent, quiet=1)


@pytest.fixture(autouse=True)
def whole_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps pages of lists in this process from ending early on a busy machine."""
    for module, name in (
        (steps, "STEPS_S"),
        (record_list, "ROWS_S"),
    ):
        monkeypatch.setattr(module, name, 60.0)


def gvisor(request: pytest.FixtureRequest) -> str:
    """The server's option for gVisor, if the test has the marker."""
    here = request.node
    tests = (here,) if isinstance(here, pytest.Item) else request.session.items
    of_here = (one for one in tests if here in (one, one.parent))
    return GVISOR if any(one.get_closest_marker("gvisor") for one in of_here) else ""


@pytest.fixture(scope="session")
def _servers() -> Iterator[Callable[[str], Server]]:
    """Servers for the session: one without options, and one with gVisor."""
    with ExitStack() as stack:
        started = cache(lambda options: stack.enter_context(watched(options)))
        yield started


@pytest.fixture(scope="module")
def shared(_servers: Callable[[str], Server], request: pytest.FixtureRequest) -> Iterator[Server]:
    """The session's server, for tests that leave it unchanged, except for functions and runtimes,
    which are removed at the end of the module.
    """
    server = _servers(gvisor(request))
    yield server if server.process else server.start()
    server.clear()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that a test may break."""
    with watched(gvisor(request)) as server:
        yield server.start()


@pytest.fixture
def another(request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """Creates further servers, not started yet, with the arguments of `watched`."""
    with ExitStack() as stack:
        yield lambda options="", kind=Server, **more: stack.enter_context(
            watched(f"{gvisor(request)} {options}", kind, **more)
        )
