"""A server to attack from within, which the tests of hostile handlers share."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from e2e import hostile_setup
from e2e.hostile_setup import Ground


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
