"""The interface of a body that is forwarded while it arrives."""

from collections.abc import AsyncGenerator
from typing import Protocol


class BodyCut(Exception):
    """The rest of a body will not arrive; the message is a sentence."""


class StreamedBody(Protocol):
    """A request body while it arrives. `length`: in bytes. None: known only at its end."""

    @property
    def length(self) -> int | None: ...

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of the body as they arrive; call it only once. The sender has to wait
        until the next piece is asked for. Raises `BodyCut`.
        """
        ...
