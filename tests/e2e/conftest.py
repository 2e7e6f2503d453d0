"""Servers for the end-to-end tests; every fixture ends by asking the host what is left."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from e2e import leftovers
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
