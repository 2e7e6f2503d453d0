"""What modules of tests that follow each other share, because it is dear to make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Generic, TypeVar

import pytest

Made = TypeVar("Made")


class Lasting(Generic[Made]):
    """Made for the first module whose tests ask for it, and closed after the last one in a row.

    Close it in a fixture of the session, and lend what it makes in a fixture of a module.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Made]]) -> None:
        self._make, self._stack, self._made = make, ExitStack(), list[Made]()

    @contextmanager
    def lent(self, request: pytest.FixtureRequest) -> Iterator[Made]:
        """What a module's fixture gives its tests; the next module may have a fixture likewise."""
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
        """Closes what it has made."""
        self._made.clear()
        self._stack.pop_all().close()
