"""The interface of a body that is passed on while it arrives."""

from collections.abc import AsyncGenerator
from typing import Protocol


class BodyCut(Exception):
    """The rest of a body will not come (a sentence)."""


class StreamedBody(Protocol):
    """A caller's body on its way. `length`: in bytes; None: it is known at its end alone."""

    @property
    def length(self) -> int | None: ...

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body, once, a piece as soon as it has come. While nobody asks for the next one, the
        caller has to wait. Raises `BodyCut`.
        """
        ...
