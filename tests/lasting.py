"""Resources that successive test modules share because they are slow to create."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Generic, TypeVar

import pytest

Made = TypeVar("Made")


class Lasting(Generic[Made]):
    """A resource that is created for the first module whose tests request it, and closed after the
    last consecutive one.

    Close this object in a fixture of the session; lend the resource in a fixture of a module.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Made]]) -> None:
        self._make, self._stack, self._made = make, ExitStack(), list[Made]()

    @contextmanager
    def lent(self, request: pytest.FixtureRequest) -> Iterator[Made]:
        """The value of a module's fixture; the next module may have the same fixture."""
        if not self._made:
            self._made.append(self._stack.enter_context(self._make()))
        yield self._made[0]
        session = request.session
        last = max(n for n, one in enumerate(session.items) if one.path == request.path)
        is_wanted = any(
            request.fixturename in getattr(one, "fixturenames", ())
            for one in session.items[last + 1 : last + 2]
        )
        if not is_wanted or session.shouldfail or session.shouldstop:
            self.close()

    def close(self) -> None:
        """Close the resource."""
        self._made.clear()
        self._stack.pop_all().close()
