"""The server that the tests of hostile handlers attack from within."""

import contextlib
from collections.abc import Iterator

import pytest

from e2e import hostile_setup
from e2e.hostile_setup import Ground
from lasting import Lasting


@pytest.fixture(scope="session")
def _grounds() -> Iterator[Lasting[Ground]]:
    with contextlib.closing(Lasting(hostile_setup.ground)) as grounds:
        yield grounds


@pytest.fixture(scope="module")
def ground(_grounds: Lasting[Ground], request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A server to attack from within, with a victim, on a monitored host. Tests share it, since
    examining the host takes long.
    """
    with _grounds.lent(request) as ground:
        yield ground
