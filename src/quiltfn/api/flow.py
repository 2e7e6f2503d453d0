"""Back-pressure on a connection, and what is said where no request can be answered."""

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from quiltfn.api import errors
from quiltfn.ids import new_id
from quiltfn.model.errors import CapacityFull

# Answers are taken for what they say they are, and shown within no other page.
EVERY_ANSWER = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("content-security-policy", "frame-ancestors 'none'"),
]
TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 34\r\nconnection: close\r\n\r\n"
    b"The request's headers are too big."
)


class Flow(FlowControl):
    """Who does not take answers is not asked for requests, either."""

    def pause_reading(self) -> None:
        if self.write_paused:
            self.read_paused = True
        super().pause_reading()

    def resume_reading(self) -> None:
        if self.write_paused:
            self.read_paused = False
        super().resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self.read_paused:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused and not self._transport.is_closing():
            self._transport.resume_reading()


def full() -> bytes:
    """What is said to who comes when no place is left."""
    error = CapacityFull("the server has all the connections that it takes", retry_after=1)
    request_id = new_id()
    status, body, headers = errors.render(error, request_id)
    headers |= {"content-type": "application/json", "x-request-id": request_id}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    lines += [f"content-length: {len(body)}\r\n", "connection: close\r\n\r\n"]
    return STATUS_LINE[status] + "".join(lines).encode() + body
