"""A server to attack from within, which the tests of hostile handlers share."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from e2e import hostile_setup
from e2e.hostile_setup import Ground


@dataclass
class Grounds:
    """The one that is open, if any, and what closes it."""

    stack: ExitStack
    open: list[Ground] = field(default_factory=list)


@pytest.fixture(scope="session")
def _grounds() -> Iterator[Grounds]:
    with ExitStack() as stack:
        yield Grounds(stack)


@pytest.fixture(scope="module")
def ground(_grounds: Grounds, request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A server to attack from within, beside a victim, on a host that is watched.

    Modules that follow each other share it, for the host is long to look at.
    """
    if not _grounds.open:
        _grounds.open.append(_grounds.stack.enter_context(hostile_setup.ground()))
    yield _grounds.open[0]
    items, session = request.session.items, request.session
    last = max(n for n, one in enumerate(items) if one.path == request.path)
    followed = any(
        "ground" in getattr(one, "fixturenames", ()) for one in items[last + 1 : last + 2]
    )
    if not followed or session.shouldfail or session.shouldstop:
        _grounds.open.clear()
        _grounds.stack.pop_all().close()
