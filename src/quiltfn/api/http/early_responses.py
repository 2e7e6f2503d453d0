"""Responses to connections whose requests cannot be read or handled, as bytes."""

from http import HTTPStatus

from quiltfn.api.http.errors import error_response
from quiltfn.base.ids import new_id
from quiltfn.model.errors import CapacityFull

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES = {
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode()
    for status in range(100, 600)
}


def _plain(status: int, sentence: str) -> bytes:
    return (
        STATUS_LINES[status]
        + (
            f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(sentence)}\r\n"
            f"connection: close\r\n\r\n{sentence}"
        ).encode()
    )


NOT_HTTP = _plain(400, "Invalid HTTP request received.")
BAD_HOST = _plain(400, "There must be one Host header.")
BAD_LENGTH = _plain(400, "Content-Length must have at most 19 digits.")
OTHER_METHOD = _plain(501, "This server has no such method.")
OTHER_PROTOCOL = _plain(505, "This server speaks HTTP/1.1 and HTTP/1.0.")
OTHER_CODING = _plain(501, "Transfer-Encoding must be: chunked")
TOO_LARGE = _plain(431, "The request's headers are too big.")


def connections_full() -> bytes:
    """The response to a client that connects when all connections are in use, or whose head does
    not fit into the memory for waiting requests.
    """
    request_id = new_id()
    error = CapacityFull("the server has all the connections that it takes", retry_after=1)
    response = error_response(error, request_id)
    assert isinstance(response.body, bytes)
    headers = [*response.headers, ("x-request-id", request_id)]
    headers += [("content-length", str(len(response.body))), ("connection", "close")]
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return STATUS_LINES[response.status] + lines.encode() + b"\r\n" + response.body
