"""`Client`, and what both clients share."""

import http.client
import os
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Literal, TypeVar, cast
from urllib.parse import urlencode, urlsplit

import msgspec

from quiltfn.sdk.errors import ClientError, ConnectionFailed, NotTrusted, UnreadableAnswer
from quiltfn.sdk.groups import Groups
from quiltfn.sdk.request import Flow, Request
from quiltfn.sdk.retries import Retries
from quiltfn.sdk.transport import (
    AnswerTimeout,
    HttpRequest,
    HttpTransport,
    NotConnected,
    Transport,
    is_loopback,
    trusted,
)

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"
NONSENSE = (msgspec.DecodeError, UnicodeDecodeError)
FAILURES = (OSError, http.client.HTTPException)


class Lifetime:
    """Whether a client is closed. Clients that share its connections also share this object."""

    is_closed = False


class Client(Groups["Client"]):
    """Talks to a quiltfn server; several threads may share one.

        client = Client()
        client.functions.create(name="hello", handler="echo hello")

    `base_url` and `api_key` default to QUILT_BASE_URL and QUILT_API_KEY. `cacert`: a PEM file with
    trusted certificate authorities (default: the machine's, or SSL_CERT_FILE). `retries`: how often
    a failed request is sent again; requests that might be executed twice are never repeated.
    `on_response`: called with the body of every successful response that is not a stream. Raises
    ValueError for invalid arguments. The attribute `on_upload`, if set, is called during an upload
    with the number of bytes sent since the last call.

    Every method raises an `ApiError` if the server returns an error, ConnectionFailed if there is
    no response, NotTrusted if the server's certificate is not trusted, and UnreadableAnswer if the
    response is not from a quiltfn server.
    """

    is_async: ClassVar[Literal[False]] = False

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        cacert: Path | None = None,
        retries: int = 2,
        transport: Transport | None = None,
        on_response: Callable[[bytes], None] | None = None,
    ) -> None:
        self.base_url = base_url_of(base_url)
        self._headers = headers_with(api_key)
        self._transport = transport or HttpTransport(
            self.base_url, trust_for(self.base_url, cacert)
        )
        self._retries, self._on_response = Retries(retries), on_response
        self.on_upload: Callable[[int], None] | None = None
        self._lifetime = Lifetime()
        self.invoke = self.functions.invoke

    def in_tenant(self, tenant: str) -> "Client":
        """A client for another tenant, with an operator's key. In that tenant it can read what
        scope read allows, see keys and the audit log, and pause, resume, scale and cancel. The two
        clients share their connections: closing one of them closes both. An older server refuses
        all requests for another tenant (InvalidRequestError).
        """
        other = self._for_tenant(tenant)
        other.invoke = other.functions.invoke
        return other

    def run(self, flow: Flow[T]) -> T:
        """Send the flow's requests, and return its result. Raises RuntimeError after `close`."""
        if self._lifetime.is_closed:
            raise RuntimeError("the client is closed")
        try:
            request = next(flow)
            while True:
                try:
                    answer = self._send(request)
                except ClientError as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, request: Request[T]) -> T:
        request, attempt = self._retries.prepared(request), 0
        while True:
            try:
                return self._exchange(request)
            except ClientError as error:
                if self._retries.is_done(request, error, attempt):
                    return request.read(b"")
                delay = self._retries.delay(request, error, attempt)
                if delay is None:
                    raise
            time.sleep(delay)
            attempt += 1

    def _exchange(self, request: Request[T]) -> T:
        if request.streams:
            chunks: Any = self._opened(request)
            next(chunks)  # returns once the head has arrived, or raises the error
            return chunks  # type: ignore[no-any-return]
        try:
            with opened(request.archive) as file:
                answer = self._transport.exchange(self._built(request, self._told_of(file)))
            result = request.understand(answer.status, answer.headers, answer.content)
        except FAILURES as error:
            raise explained(self.base_url, request, error) from error
        except NONSENSE as error:
            raise unreadable(self.base_url, error) from error
        if self._on_response is not None:
            self._on_response(answer.content)
        return result

    def _opened(self, request: Request[Any]) -> Iterator[bytes]:
        """Yield an empty value once the response has begun, and then its chunks."""
        try:
            answer, chunks = self._transport.open(self._built(request, None))
            try:
                if not 200 <= answer.status < 300:
                    request.understand(answer.status, answer.headers, b"".join(chunks))
                yield b""
                yield from chunks
            finally:
                chunks.close()
        except FAILURES as error:
            raise explained(self.base_url, request, error) from error
        except NONSENSE as error:
            raise unreadable(self.base_url, error) from error

    def _told_of(self, file: BinaryIO | None) -> BinaryIO | None:
        if file is None or self.on_upload is None:
            return file
        return cast("BinaryIO", ToldFile(file, self.on_upload))

    def _built(self, request: Request[Any], file: BinaryIO | None) -> HttpRequest:
        return HttpRequest(
            method=request.method,
            url=self.base_url + path_of(request, self._tenant),
            headers=headers_of(request, self._headers),
            body=request.body if file is None else file,
            read_timeout_s=request.read_timeout_s,
        )

    def close(self) -> None:
        """Close the connections; the client can no longer be used."""
        self._lifetime.is_closed = True
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


# --- shared by both clients ----------------------------------------------------------------------


def base_url_of(given: str | None) -> str:
    """The server's URL without a trailing slash. Raises ValueError."""
    url = given or os.environ.get("QUILT_BASE_URL") or DEFAULT_URL
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_address = is_address and (parts.port is None or parts.port > 0) and url.isprintable()
    except ValueError:
        is_address = False
    if not is_address or " " in url:
        shown = repr(without_user(url))
        raise ValueError(f"the server's address must look like {DEFAULT_URL}, not {shown}")
    return url.rstrip("/")


def without_user(url: str) -> str:
    """The URL in a form that may be shown: without the part before an @, even if it is not a valid
    URL, since this may be a user name and a password.
    """
    before, at, rest = url.rpartition("@")
    scheme, colon, _ = before.partition("://")
    return f"{scheme}://…@{rest}" if colon else f"…@{rest}" if at else url


def headers_with(api_key: str | None) -> dict[str, str]:
    """The headers of every request. Raises ValueError for an impossible key."""
    headers = {"Accept": "application/json", "User-Agent": "quiltfn-sdk"}
    key = (api_key or os.environ.get("QUILT_API_KEY") or "").strip()
    if not (key.isascii() and (key.isprintable() or not key)):
        # Not shown, since a damaged key still contains most of the secret.
        raise ValueError("the API key has invalid characters; was it copied completely?")
    return {**headers, "X-Api-Key": key} if key else headers


def path_of(request: Request[Any], tenant: str | None) -> str:
    """The request's path, with the tenant that an operator acts in. The tenant is a query
    parameter, since an older server refuses parameters that it does not know; it would ignore a
    header, and act in the key's own tenant.
    """
    if tenant is None:
        return request.path
    return f"{request.path}{'&' if '?' in request.path else '?'}{urlencode({'tenant': tenant})}"


def headers_of(request: Request[T], always: dict[str, str]) -> dict[str, str]:
    headers = {**always, **request.headers}
    if request.archive is not None:
        headers["Content-Length"] = str(request.archive.stat().st_size)
    elif request.body is not None:
        headers["Content-Type"] = "application/json"
    return headers


def trust_for(url: str, cacert: Path | None) -> ssl.SSLContext | None:
    """The trusted certificate authorities for https; None for http. Raises ValueError."""
    if urlsplit(url).scheme == "https":
        return trusted(cacert)
    if cacert is not None:
        shown = without_user(url)
        raise ValueError(f"cacert requires an address that begins with https://, not {shown}")
    return None


class ToldFile:
    """A file that reports the number of bytes of each read."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None]) -> None:
        self._file, self._told = file, progress

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._told(len(piece))
        return piece


@contextmanager
def opened(archive: Path | None) -> Iterator[BinaryIO | None]:
    if archive is None:
        yield None
    else:
        with archive.open("rb") as file:
            yield file


def explained(url: str, request: Request[T], error: Exception) -> ClientError:
    """The exception, with the reason for the missing response."""
    url = without_user(url)
    if isinstance(error, ssl.SSLCertVerificationError):
        return NotTrusted(
            f"the certificate of {url} is not trusted: {error.verify_message.rstrip('.')}; "
            "name the file with its certificate authority: cacert=FILE, or SSL_CERT_FILE"
        )
    if isinstance(error, ssl.SSLError):
        return ConnectionFailed(
            f"the server at {url} does not speak TLS correctly "
            f"({error.reason or error}); is it a server without a certificate? then use http://"
        )
    if isinstance(error, NotConnected):
        sentence = f"no quiltfn server responds at {url}{_advice(url, error)}"
        return ConnectionFailed(sentence, was_sent=False)
    if isinstance(error, AnswerTimeout):
        return ConnectionFailed(
            f"the server at {url} accepted the request but did not respond within "
            f"{request.read_timeout_s:g} s",
            is_timeout=True,
        )
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        return unreadable(url, error)
    # A server with a certificate closes connections that do not start with TLS.
    secure = "" if url.startswith("https:") else "; if it has a certificate, use https://"
    return ConnectionFailed(
        f"the connection to {url} ended before the response arrived: "
        f"{str(error) or type(error).__name__}{secure}"
    )


def _advice(url: str, error: NotConnected) -> str:
    if is_loopback(urlsplit(url).hostname or ""):
        return "; start one with: quiltfn serve, or set its address: QUILT_BASE_URL"
    why = error.strerror or str(error)
    return f": {why[:1].lower()}{why[1:]}" if why else ""


def unreadable(url: str, error: Exception) -> UnreadableAnswer:
    shown, said = without_user(url), str(error) or type(error).__name__
    return UnreadableAnswer(
        f"the server at {shown} is not a quiltfn server, or its response is damaged: {said}"
    )
