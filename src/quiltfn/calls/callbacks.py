"""Sends callbacks: one request each, to a checked address, over HTTP/1.1 by httpcore.

The host name is resolved here, every address is checked, and the connection goes to one of exactly
those addresses: a later, different DNS response has no effect. Redirects are not followed, and no
proxy is used. Only the status of a response is read, and the bytes before it are limited.

Importing and opening this takes some megabytes of memory, so a server does it with its first
callback.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpcore

from quiltfn.model.callback import Address, AddressRange, may_be_called
from quiltfn.ports.deliveries import CallbackFailed

TIMEOUT_S = 15.0
# A long body extends the timeout by a second for each 64 KiB.
BYTES_A_SECOND = 64 * 1024
# A name server may take far longer to fail than callbacks wait, and blocks a thread meanwhile.
# These threads only resolve names for callbacks; while all are busy, callbacks wait and fail.
RESOLVERS = 64
ADDRESSES_TRIED = 3
# Each address of a name is checked, and each check costs two system calls.
ADDRESSES_MAX = 64
# Maximum bytes read of a response: its head, and any number of interim responses (1xx) before it.
# It is read in small pieces, since parsing a piece blocks all other work.
ANSWER_MAX_BYTES, PIECE_BYTES = 16 * 1024, 2048
NOT_ALLOWED = (
    "the host has an address that callbacks may not go to: "
    "the setting callback_networks allows ranges beside public ones"
)
# Addresses for documentation, which no machine has.
NOBODYS = {4: ipaddress.ip_address("192.0.2.1"), 6: ipaddress.ip_address("2001:db8::1")}
Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class Resolver:
    """Resolves names as the system does, in its own threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVERS, "callback-names")

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Every address of a host. Raises `CallbackFailed`."""
        look = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, look)
        except (OSError, UnicodeError):
            raise CallbackFailed("the name of the host cannot be resolved") from None
        return [ipaddress.ip_address(one[4][0]) for one in found]

    def close(self) -> None:
        """Shut down without waiting."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def is_of_this_machine(address: Address) -> bool:
    """Whether the address is one of this machine's own: a service there may be private, even if the
    address is public. With `ip_nonlocal_bind` set, this can't be found out, and is False.
    """
    return _can_bind(address) and not _can_bind(NOBODYS[address.version])


def _can_bind(address: Address) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
        return True


class BoundedStream(httpcore.AsyncNetworkStream):
    """A connection that limits the bytes read from it to the maximum size of a response."""

    def __init__(self, plain: httpcore.AsyncNetworkStream) -> None:
        self._plain, self._left = plain, ANSWER_MAX_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        if self._left <= 0:
            raise CallbackFailed(f"the head of the answer is longer than {ANSWER_MAX_BYTES} bytes")
        data = await self._plain.read(min(max_bytes, PIECE_BYTES), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._plain.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._plain.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's name
    ) -> httpcore.AsyncNetworkStream:
        return BoundedStream(await self._plain.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:  # noqa: ARG002
        """Returns None, so that the library uses no HTTP/2 and does not check whether the receiver
        has already reset the connection: on uvloop, that check raises `AttributeError`.
        """
        return None


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to a host only if all of its addresses are allowed."""

    def __init__(self, allowed: Iterable[AddressRange], resolve: Resolve) -> None:
        self._allowed, self._resolve = tuple(allowed), resolve
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's name
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        if not addresses:
            raise CallbackFailed("the name of the host has no address")
        if len(addresses) > ADDRESSES_MAX:
            raise CallbackFailed(f"the name of the host has more than {ADDRESSES_MAX} addresses")
        if not all(self._may_be_called(one) for one in addresses):
            raise CallbackFailed(NOT_ALLOWED)
        failure: Exception | None = None
        for address in addresses[:ADDRESSES_TRIED]:
            try:
                return BoundedStream(
                    await self._plain.connect_tcp(
                        str(address), port, timeout, local_address, socket_options
                    )
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or CallbackFailed("no connection could be made")

    def _may_be_called(self, address: Address) -> bool:
        return may_be_called(address, self._allowed, is_own=is_of_this_machine(address))


class Callbacks:
    """`ports.deliveries.CallbackSender`. `allowed`: non-public address ranges to which callbacks
    may go. `trust`: accepted certificate authorities; None: the machine's.
    """

    def __init__(
        self,
        allowed: Iterable[AddressRange],
        resolve: Resolve | None = None,
        timeout_s: float = TIMEOUT_S,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._resolver = Resolver()
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=trust or ssl.create_default_context(),
            max_connections=None,  # the caller limits how many it sends at a time
            # Each callback has to resolve the name and check the addresses anew.
            max_keepalive_connections=0,
            network_backend=CheckedBackend(allowed, resolve or self._resolver),
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        to, host = _whole(url)
        sent = [("Host", host), *headers.items(), ("connection", "close")]
        timeout_s = self._timeout_s + len(body) // BYTES_A_SECOND
        try:
            async with asyncio.timeout(timeout_s):
                async with self._pool.stream("POST", to, headers=sent, content=body) as answer:
                    return int(answer.status)
        except TimeoutError:
            raise CallbackFailed(f"there was no answer within {timeout_s:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise CallbackFailed(_sentence(error)) from None
        except (OSError, httpcore.UnsupportedProtocol, ValueError):
            raise CallbackFailed("the request could not be sent") from None

    async def aclose(self) -> None:
        await self._pool.aclose()
        self._resolver.close()


def _whole(url: str) -> tuple[httpcore.URL, str]:
    """The URL and its Host. httpcore's own URL parser drops the part after a `;` in the last
    segment of a path, and the brackets of an IPv6 address in Host.
    """
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return httpcore.URL(
        scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target=target
    ), parts.netloc


def _sentence(error: BaseException) -> str:
    """A sentence about the error. It contains no part of the URL, unlike messages of libraries."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and len(chain) < 10:
        chain.append(cause)
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in chain):
        return "the certificate of the host is not valid for it, or not trusted"
    if any(isinstance(one, ssl.SSLError) for one in chain):
        return "the connection could not be encrypted"
    if isinstance(error, httpcore.ConnectError | httpcore.ConnectTimeout):
        return "no connection could be made"
    if isinstance(error, httpcore.ProtocolError):
        return "the answer was not valid HTTP, or the connection ended before it"
    return "the connection ended before an answer"
