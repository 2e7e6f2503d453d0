"""A call's way past what a call does not need: no router, no task for a body that is there already.

Every request is parsed by the same parser, asked the same questions and answered by the same
endpoint. What is left out is what ASGI has for requests whose body comes later and whose answer
comes in parts: most calls are one packet each way.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from starlette.datastructures import Headers
from starlette.requests import Request

from quiltfn.idempotency import Rendered


class Answers(Protocol):
    """What `app.Endpoint` is to a call."""

    async def respond(self, request: Request, body: bytes | None = None) -> Rendered: ...


CallAt = Callable[[str], "tuple[Answers, Mapping[str, str]] | None"]


class Heads(dict[str, str]):
    """Headers of which none comes twice; what the endpoint asks of Starlette's, without a search
    through all of them for each question.
    """

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def getlist(self, name: str) -> list[str]:
        value = super().get(name.lower())
        return [] if value is None else [value]


class CallRequest(Request):
    """Starlette's request, its headers read once."""

    def __init__(self, scope: Any) -> None:
        super().__init__(scope)
        heads = Heads()
        for name, value in scope["headers"]:
            heads[name.decode("latin-1")] = value.decode("latin-1")
        self._headers = cast("Headers", heads)


class DirectCall:
    """A request that came whole. Stands in for uvicorn's cycle: the connection asks it whether the
    answer is out, and tells it when it shall be the last.
    """

    def __init__(self, scope: Any, endpoint: Answers, keep_alive: bool) -> None:
        self.scope, self.endpoint, self.keep_alive = scope, endpoint, keep_alive
        self.response_complete = False
        self.disconnected = False
        self.more_body = False
        self.body = b""
        self.message_event = self

    def set(self) -> None:
        """Nobody waits for more of it."""

    async def answer(self) -> Rendered:
        return await self.endpoint.respond(CallRequest(self.scope), self.body)


def to_bytes(answer: Rendered, status_line: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The whole response; `headers` come first."""
    lines = [status_line]
    lines += [b"%b: %b\r\n" % header for header in headers]
    lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in answer.headers.items()]
    if answer.status != 204:
        lines.append(b"content-length: %d\r\n" % len(answer.body))
    return b"".join([*lines, b"\r\n", answer.body])
