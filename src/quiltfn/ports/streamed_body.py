"""The interface of a body that is forwarded while it arrives."""

from collections.abc import AsyncGenerator
from typing import Protocol


class BodyCut(Exception):
    """The rest of a body will not arrive; the message is a sentence."""


class StreamedBody(Protocol):
    """A request body that is arriving. `length`: in bytes; None: unknown until its end."""

    @property
    def length(self) -> int | None: ...

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of the body as they arrive; call it only once. The sender waits until
        the next piece is requested. Raises `BodyCut`.
        """
        ...
