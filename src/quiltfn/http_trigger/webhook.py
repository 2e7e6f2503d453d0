"""Checks that a webhook was signed with the secret and, if its scheme has a time, recently. All
comparisons take constant time.

Standard Webhooks: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
GitHub: https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
Stripe: https://docs.stripe.com/webhooks#verify-manually
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping

from quiltfn.http_trigger.call import Field, connection_options
from quiltfn.model.callback import key_of
from quiltfn.model.url import Scheme, Webhook

TOLERANCE_S = 300
# Maximum number of checked signatures; senders use several secrets during a rotation.
SIGNATURES_MAX = 16
STRIPE_FIELDS_MAX = 2 * SIGNATURES_MAX
DIGITS_MAX = 15

Headers = Mapping[str, str]
STANDARD = ("webhook-id", "webhook-timestamp", "webhook-signature")
# The fields needed to check a signature.
SIGNED: Mapping[Scheme, tuple[str, ...]] = {
    Scheme.STANDARD: STANDARD,
    Scheme.GITHUB: ("x-hub-signature-256",),
    Scheme.STRIPE: ("stripe-signature",),
}


def is_ambiguous(scheme: Scheme, fields: Iterable[Field]) -> bool:
    """Whether the handler might see another value than the one that was checked. This is so if the
    field is repeated, perhaps with underscores, which many servers read as dashes; or if the sender
    declares it as specific to the connection, so that it is not passed on.
    """
    given = list(fields)
    names = [name.replace("_", "-") for name, _ in given]
    options = connection_options(given)
    return any(names.count(name) > 1 or name in options for name in SIGNED[scheme])


def is_signed(webhook: Webhook, headers: Headers, body: bytes, now: float) -> bool:
    """Whether the request has a signature of this secret, and, if the scheme has a time, one within
    five minutes of `now` (Unix seconds).
    """
    return CHECKS[webhook.scheme](webhook.secret, headers, body, now)


def is_untimely(webhook: Webhook, headers: Headers, now: float) -> bool:
    """Whether the request states a time of signing that differs by more than five minutes from
    `now`. The signature of the time is not verified.
    """
    times: list[str] = []
    if webhook.scheme is Scheme.STANDARD:
        times = [headers.get("webhook-timestamp", "")]
    elif webhook.scheme is Scheme.STRIPE:
        times = [one[2:] for one in _stripe_fields(headers) if one.startswith("t=")]
    return len(times) == 1 and times[0].isdigit() and not _is_recent(times[0], now)


def _standard(secret: str, headers: Headers, body: bytes, now: float) -> bool:
    message, time, given = (headers.get(name) for name in STANDARD)
    if message is None or time is None or given is None or not _is_recent(time, now):
        return False
    signed = b"%b.%b.%b" % (_bytes(message), time.encode(), body)
    digest = base64.b64encode(hmac.digest(key_of(secret), signed, hashlib.sha256)).decode()
    versions = [one.partition(",") for one in given.split(" ")[:SIGNATURES_MAX]]
    return _any_equal([text for version, _, text in versions if version == "v1"], digest)


def _github(secret: str, headers: Headers, body: bytes, _now: float) -> bool:
    given = headers.get("x-hub-signature-256", "")
    digest = hmac.digest(secret.encode(), body, hashlib.sha256).hex()
    return _any_equal([given], f"sha256={digest}")


def _stripe_fields(headers: Headers) -> list[str]:
    """The fields of the signature header; none if there are too many."""
    given = headers.get("stripe-signature", "")
    if given.count(",") >= STRIPE_FIELDS_MAX:
        return []
    return [one.strip() for one in given.split(",")]


def _stripe(secret: str, headers: Headers, body: bytes, now: float) -> bool:
    parts = [tuple(one.split("=", 1)) for one in _stripe_fields(headers)]
    pairs = [(one[0], one[1]) for one in parts if len(one) == 2]
    times = [value for name, value in pairs if name == "t"]
    if len(times) != 1 or not _is_recent(times[0], now):
        return False
    signed = b"%b.%b" % (times[0].encode(), body)
    digest = hmac.digest(secret.encode(), signed, hashlib.sha256).hex()
    return _any_equal([value for name, value in pairs if name == "v1"][:SIGNATURES_MAX], digest)


CHECKS: Mapping[Scheme, Callable[[str, Headers, bytes, float], bool]] = {
    Scheme.STANDARD: _standard,
    Scheme.GITHUB: _github,
    Scheme.STRIPE: _stripe,
}


def _is_recent(text: str, now: float) -> bool:
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX):
        return False
    return abs(now - int(text)) <= TOLERANCE_S


def _any_equal(given: list[str], expected: str) -> bool:
    right = expected.encode()
    # All are compared, so that timing does not reveal which one matches.
    return sum(hmac.compare_digest(_bytes(one), right) for one in given) > 0


def _bytes(text: str) -> bytes:
    """The bytes of a header's value as the client sent them."""
    return text.encode("latin-1", "replace")
