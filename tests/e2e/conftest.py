"""Servers for the end-to-end tests; every fixture ends by asking the host what is left."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from e2e import hostile_setup, leftovers
from e2e.hostile_setup import Ground
from e2e.server import Server, short_dir, why_not


@pytest.fixture(autouse=True, scope="session")
def _can_run() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)


@contextmanager
def _watched(make: Callable[[Path], Server]) -> Iterator[Server]:
    with short_dir() as root:
        before = leftovers.look(root, root / "run", ())
        server = make(root)
        try:
            yield server
        finally:
            server.close()
        left = leftovers.nothing_since(before, root, server.run_dir, server.ids)
        assert not left, f"left on the host: {left}\n{server.log.read_text()}"


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """One server for tests that leave it as they found it."""
    with _watched(Server) as server:
        yield server.start()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of the test's own, to be broken as it likes."""
    with _watched(Server) as server:
        yield server.start()


@pytest.fixture
def another() -> Iterator[Callable[..., Server]]:
    """Makes further servers (not started yet), say in the run directory of the first."""
    with ExitStack() as stack:

        def make(**more: object) -> Server:
            return stack.enter_context(_watched(lambda root: Server(root, **more)))  # type: ignore[arg-type]

        yield make


@pytest.fixture(scope="session")
def _grounds() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def ground(_grounds: ExitStack, request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A server to attack from within, beside a victim, on a host that is watched.

    Modules that follow each other share it, for the host is long to look at.
    """
    if not hasattr(_grounds, "ground"):
        _grounds.ground = _grounds.enter_context(hostile_setup.ground())
    yield _grounds.ground
    items, session = request.session.items, request.session
    last = max(n for n, one in enumerate(items) if one.path == request.path)
    followed = any("ground" in one.fixturenames for one in items[last + 1 : last + 2])
    if not followed or session.shouldfail or session.shouldstop:
        del _grounds.ground
        _grounds.pop_all().close()
