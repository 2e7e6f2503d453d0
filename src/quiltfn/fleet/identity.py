"""Identifies the caller of a forwarded request: a signed header, valid once, on one connection.

The receiving node gives each connection a random number, the nonce. A header has the number of its
request on that connection, the invocation's metadata, and a signature (HMAC-SHA-256, with the key
that the nodes of a fleet share) over these, the nonce, both nodes and the request's method and
target. So an intercepted header is useless for another request, a second time, on another
connection or at another node, and it expires with its connection: no clocks are compared. TLS
protects header and body on the way.
"""

import binascii
import hmac
import secrets

import msgspec

from quiltfn.model.forwarded import ForwardedCall

HEADER = "quilt-peer"
NONCE_HEADER = "quilt-peer-nonce"
# A header of responses: the node did not start the request.
REFUSED_HEADER, REFUSED_STATUS = "quilt-peer-refused", 403
# A header of pings and their responses: the sender's key revision.
REVISION_HEADER = "quilt-peer-key-revision"
# Headers that are accepted from nodes only.
RESERVED = frozenset((HEADER, NONCE_HEADER, REFUSED_HEADER, REVISION_HEADER))
# Paths of unsigned requests, which `peer_server.py` handles: the nonce of a connection, and a ping.
HELLO, PING = "/fleet/hello", "/fleet/ping"
CALL_MAX_BYTES = 8192
NONCE_BYTES = 16
# Encodes URL-safe base64: the library's own functions for it take longer than the signature.
_TO_URL, _FROM_URL = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")
_encode, _decode = msgspec.json.encode, msgspec.json.Decoder(ForwardedCall).decode


class BadIdentity(Exception):
    """A header that does not identify the caller: a sentence, without the header."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """The signing and the receiving node. `key`: the fleet's; `asker`, `asked`: their names."""

    key: bytes
    fleet_id: str
    asker: str
    asked: str


class Signer:
    """Signs the requests of one connection, in the order of sending."""

    def __init__(self, side: Side, nonce: str) -> None:
        self._hmac = hmac.new(side.key, _context(side, nonce).encode(), "sha256")
        self._number = 0

    def sign(self, method: str, target: str, call: ForwardedCall | None) -> str:
        """The header's value for the next request."""
        self._number += 1
        encoded_call = ""
        if call is not None:
            encoded = binascii.b2a_base64(_encode(call), newline=False)
            encoded_call = encoded.translate(_TO_URL).decode()
        found = _signature(self._hmac, f"\n{self._number}\n{method}\n{target}\n{encoded_call}")
        return f"{self._number}.{encoded_call}.{found}"


class Verifier:
    """Checks the requests of one connection."""

    def __init__(self, side: Side) -> None:
        self.nonce = secrets.token_hex(NONCE_BYTES)
        self._hmac = hmac.new(side.key, _context(side, self.nonce).encode(), "sha256")
        self._number = 0

    def check(self, value: str | None, method: str, target: str) -> ForwardedCall | None:
        """The metadata of the forwarded invocation; None: the asking node acts on its own behalf.
        Raises `BadIdentity`.
        """
        if value is None:
            raise BadIdentity("the request is not signed")
        number, _, rest = value.partition(".")
        signed, _, signature = rest.partition(".")
        expected = str(self._number + 1)
        found = _signature(self._hmac, f"\n{expected}\n{method}\n{target}\n{signed}")
        if number != expected:
            raise BadIdentity("the signature is of another request on the connection")
        if not (signature.isascii() and hmac.compare_digest(found, signature)):
            raise BadIdentity("the signature is not that of the request")
        self._number += 1
        if not signed:
            return None
        if len(signed) > CALL_MAX_BYTES:
            raise BadIdentity("the call's metadata is too long")
        try:
            return _decode(binascii.a2b_base64(signed.encode().translate(_FROM_URL)))
        except (binascii.Error, msgspec.DecodeError):
            raise BadIdentity("the call's metadata cannot be decoded") from None


def _signature(begun: hmac.HMAC, rest: str) -> str:
    """The digest of a prepared state and the remaining data. A new state instead of a copy would
    first look up its algorithm, which doubles the time.
    """
    digest = begun.copy()
    digest.update(rest.encode())
    return digest.hexdigest()


def _context(side: Side, nonce: str) -> str:
    """The beginning of the signed bytes of each request. Neither names nor the nonce have line
    ends.
    """
    return f"quiltfn peer 1\n{side.fleet_id}\n{side.asker}\n{side.asked}\n{nonce}"
