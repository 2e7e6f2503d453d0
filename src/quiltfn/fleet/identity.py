"""For whom a node asks another one: a header that is signed, of use once, on one connection.

The node that is asked gives each connection a random number, the nonce. A header has the number of
its request on that connection, what is said of the call, and a signature (HMAC-SHA-256, by the key
that the nodes of a fleet share) over these, the nonce, both nodes and the request's method and
target. So a header that was seen is of no use for another request, a second time, on another
connection or to another node, and it is gone with its connection: no clock is compared with another
one. What is on the way is protected by TLS, the body with it.
"""

import binascii
import hmac
import secrets

import msgspec

from quiltfn.model.forwarded import ForwardedCall

HEADER = "quilt-peer"
NONCE_HEADER = "quilt-peer-nonce"
# Of an answer: the node did not begin with the request.
REFUSED_HEADER, REFUSED_STATUS = "quilt-peer-refused", 403
# Of a ping and its response: the sender's key revision.
REVISION_HEADER = "quilt-peer-key-revision"
# Nobody but a node says any of these.
RESERVED = frozenset((HEADER, NONCE_HEADER, REFUSED_HEADER, REVISION_HEADER))
# What a node answers itself, unsigned: the nonce of a connection, and that it is there.
HELLO, PING = "/fleet/hello", "/fleet/ping"
CALL_MAX_BYTES = 8192
NONCE_BYTES = 16
# The base64 of URLs, whose functions take longer than what is signed with them.
_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")
_encode, _decode = msgspec.json.encode, msgspec.json.Decoder(ForwardedCall).decode


class BadIdentity(Exception):
    """A header that does not say for whom its request is: a sentence, without the header."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs for whom. `key`: the fleet's; `asker`, `asked`: the names of two nodes."""

    key: bytes
    fleet_id: str
    asker: str
    asked: str


class Signer:
    """Signs the requests of one connection, in the order in which they are sent."""

    def __init__(self, side: Side, nonce: str) -> None:
        self._hmac = hmac.new(side.key, _context(side, nonce).encode(), "sha256")
        self._number = 0

    def sign(self, method: str, target: str, call: ForwardedCall | None) -> str:
        """The header's value for the next request."""
        self._number += 1
        told = ""
        if call is not None:
            encoded = binascii.b2a_base64(_encode(call), newline=False)
            told = encoded.translate(_TO_URL).decode()
        found = _signature(self._hmac, f"\n{self._number}\n{method}\n{target}\n{told}")
        return f"{self._number}.{told}.{found}"


class Verifier:
    """Checks the requests of one connection."""

    def __init__(self, side: Side) -> None:
        self.nonce = secrets.token_hex(NONCE_BYTES)
        self._hmac = hmac.new(side.key, _context(side, self.nonce).encode(), "sha256")
        self._number = 0

    def check(self, value: str | None, method: str, target: str) -> ForwardedCall | None:
        """What the asker says of the call; None: it asks for itself. Raises `BadIdentity`."""
        if value is None:
            raise BadIdentity("the request is not signed")
        number, _, rest = value.partition(".")
        told, _, signature = rest.partition(".")
        expected = str(self._number + 1)
        found = _signature(self._hmac, f"\n{expected}\n{method}\n{target}\n{told}")
        if number != expected:
            raise BadIdentity("the signature is of another request on the connection")
        if not (signature.isascii() and hmac.compare_digest(found, signature)):
            raise BadIdentity("the signature is not that of the request")
        self._number += 1
        if not told:
            return None
        if len(told) > CALL_MAX_BYTES:
            raise BadIdentity("what it says of the call is too long")
        try:
            return _decode(binascii.a2b_base64(told.encode().translate(_FROM_URL)))
        except (binascii.Error, msgspec.DecodeError):
            raise BadIdentity("what it says of the call cannot be read") from None


def _signature(begun: hmac.HMAC, rest: str) -> str:
    """Of what was begun with and the rest. One that is begun anew looks for its algorithm first, by
    which it takes twice as long.
    """
    one = begun.copy()
    one.update(rest.encode())
    return one.hexdigest()


def _context(side: Side, nonce: str) -> str:
    """What is signed with each request. Neither names nor the nonce have line ends."""
    return f"quiltfn peer 1\n{side.fleet_id}\n{side.asker}\n{side.asked}\n{nonce}"
