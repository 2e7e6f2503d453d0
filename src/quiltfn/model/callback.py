"""Callbacks: requests to the URL of a destination. Defines the allowed URLs, secrets and addresses,
and signs requests by Standard Webhooks (https://www.standardwebhooks.com).

This module does no I/O: `calls/callbacks.py` resolves names and connects.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from quiltfn.model.errors import Unprocessable
from quiltfn.model.version import MASK

URL_MAX_CHARS = 2048
SCHEMES = ("https", "http")
SECRET_PREFIX = "whsec_"
SECRET_MIN_BYTES, SECRET_MAX_BYTES = 24, 64
EXAMPLE_URL = "https://example.com/hooks/quiltfn"
EXAMPLE_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # from the specification

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddressRange = ipaddress.IPv4Network | ipaddress.IPv6Network

# The allocated part of IPv6. All other addresses are local to a link or site, or contain an IPv4
# address, which would need its own check: ::/96 and ::ffff:0:0/96 (mapped), 64:ff9b::/96 and
# 64:ff9b:1::/48 (NAT64).
UNICAST = ipaddress.IPv6Network("2000::/3")
# Ranges in `UNICAST` and IPv4 that are allocated but have no public servers. The rules for
# sandboxes have a copy of this list, since root loads them without importing quiltfn
# (`launcher/egress_rules.py`).
DENIED: Sequence[AddressRange] = (
    ipaddress.IPv4Network("168.63.129.16/32"),  # the host's agent in Azure
    ipaddress.IPv4Network("192.31.196.0/24"),
    ipaddress.IPv4Network("192.52.193.0/24"),
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays
    ipaddress.IPv4Network("192.175.48.0/24"),
    ipaddress.IPv6Network("2001::/23"),  # protocol assignments, including Teredo
    ipaddress.IPv6Network("2002::/16"),  # 6to4 carries IPv4 addresses
    ipaddress.IPv6Network("2620:4f:8000::/48"),
    ipaddress.IPv6Network("3fff::/20"),
)


def check_url(url: str, field: str) -> None:
    """Raises `Unprocessable` for `field` if callbacks must not go to the URL, as far as this is
    known without resolving its host. The error does not repeat the URL, which may contain a token.
    """
    problem = _problem_of(url)
    if problem is not None:
        expected = f"an absolute http or https URL of at most {URL_MAX_CHARS} characters"
        raise Unprocessable.field(field, expected, problem, EXAMPLE_URL)


def _problem_of(url: str) -> str | None:
    if len(url) > URL_MAX_CHARS:
        return f"{len(url)} characters"
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        return "one with characters that are no visible ASCII: encode them"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "one whose host or port is not valid"
    if parts.scheme not in SCHEMES:
        return "one of another scheme, or none"
    if "@" in parts.netloc:
        return "one with a user name"
    if parts.fragment:
        return "one with a fragment"
    if not host or "\\" in url or "%" in parts.netloc:
        return "one without a valid host"
    if port == 0:
        return "one whose port is 0"
    if MASK in url:
        return f"one with {MASK}, as a masked URL has: give the real one"
    return None


def check_secret(secret: str, field: str) -> None:
    """Raises `Unprocessable` for `field` unless the secret can sign. The error does not repeat the
    secret.
    """
    try:
        key_of(secret)
    except ValueError as error:
        expected = (
            f"{SECRET_PREFIX} and the base64 of {SECRET_MIN_BYTES} to {SECRET_MAX_BYTES} bytes"
        )
        raise Unprocessable.field(field, expected, str(error), EXAMPLE_SECRET) from None


def key_of(secret: str) -> bytes:
    """The bytes of the signing key. Raises `ValueError`, which does not repeat the secret."""
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError("one without that prefix")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX).encode(), validate=True)
    except (UnicodeError, binascii.Error):
        raise ValueError("one that is not base64") from None
    if not SECRET_MIN_BYTES <= len(key) <= SECRET_MAX_BYTES:
        raise ValueError(f"one of {len(key)} bytes")
    return key


def signed_headers(secret: str, message_id: str, now: int, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks. `now` in Unix seconds."""
    signed = b"%b.%d.%b" % (message_id.encode(), now, body)
    digest = hmac.digest(key_of(secret), signed, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def is_public(address: Address) -> bool:
    """Whether the address is public and does not contain another address."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address not in UNICAST:
        return False
    return not any(address in one for one in DENIED)


def may_be_called(
    address: Address, allowed: Iterable[AddressRange], *, is_own: bool = False
) -> bool:
    """Whether callbacks may go to the address. `allowed`: ranges that the operator allows in
    addition to public addresses. `is_own`: the address is this machine's, so it counts as private.
    """
    return (is_public(address) and not is_own) or any(address in one for one in allowed)
