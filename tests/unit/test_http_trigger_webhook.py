"""Signatures of webhooks: examples from the senders' documentation, and forgeries."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Sender

from promises import promise
from quiltfn.http_trigger.webhook import (
    SIGNATURES_MAX,
    STRIPE_FIELDS_MAX,
    TOLERANCE_S,
    is_ambiguous,
    is_signed,
)
from quiltfn.model.url import Scheme, Webhook

pytestmark = promise("U5")

# From docs.github.com, "Validating webhook deliveries", "Testing the webhook payload validation".
GITHUB = Webhook(scheme=Scheme.GITHUB, secret="It's a Secret to Everybody")
GITHUB_BODY = b"Hello, World!"
GITHUB_HEADERS = {
    "x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
}
# From the Standard Webhooks specification: its secret, and a delivery signed by its own library.
STANDARD = Webhook(scheme=Scheme.STANDARD, secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
STANDARD_ID, STANDARD_TIME = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330
STANDARD_BODY = b'{"test": 2432232314}'
STANDARD_HEADERS = {
    "webhook-id": STANDARD_ID,
    "webhook-timestamp": str(STANDARD_TIME),
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
# From docs.stripe.com, "Verify webhook signatures manually": the format of the header, which
# `stripe_headers` signs as described there.
STRIPE = Webhook(scheme=Scheme.STRIPE, secret="whsec_test_secret_of_an_endpoint")
STRIPE_TIME = 1492774577
STRIPE_BODY = b'{\n  "id": "evt_test_webhook",\n  "object": "event"\n}'


def stripe_headers(
    time: int = STRIPE_TIME, secret: str = STRIPE.secret, body: bytes = STRIPE_BODY
) -> dict[str, str]:
    signed = f"{time}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    old = "6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"
    return {"stripe-signature": f"t={time},v1={digest},v0={old}"}


CASES: dict[str, tuple[Webhook, dict[str, str], bytes, int]] = {
    "github": (GITHUB, GITHUB_HEADERS, GITHUB_BODY, 0),
    "standard": (STANDARD, STANDARD_HEADERS, STANDARD_BODY, STANDARD_TIME),
    "stripe": (STRIPE, stripe_headers(), STRIPE_BODY, STRIPE_TIME),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
TIMED = pytest.mark.parametrize("name", ["standard", "stripe"])


@EACH
def test_a_delivery_as_its_sender_signs_it_is_taken(case: Any) -> None:
    webhook, headers, body, now = case
    assert is_signed(webhook, headers, body, now)


@EACH
def test_a_field_that_the_handler_may_see_otherwise_makes_it_ambiguous(case: Any) -> None:
    webhook, headers, _, _ = case
    fields = list(headers.items())
    others = [("connection", "keep-alive, x-other"), ("x-other", "1"), ("x-other", "2")]
    assert not is_ambiguous(webhook.scheme, [*fields, *others])
    for name, value in fields:
        for more in (
            (name, value),
            (name, "other"),
            (name.replace("-", "_"), "other"),
            (name.replace("-", "_", 1), value),
            ("connection", name),
            ("connection", f"close , {name.upper()}"),
        ):
            assert is_ambiguous(webhook.scheme, [*fields, more]), more
            assert is_ambiguous(webhook.scheme, [more, *fields]), more


@EACH
def test_one_byte_of_the_body_changed_is_refused(case: Any) -> None:
    webhook, headers, body, now = case
    for at in range(len(body)):
        changed = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        assert not is_signed(webhook, headers, changed, now)
    for changed in (body + b" ", body[:-1], b""):
        assert not is_signed(webhook, headers, changed, now)


@EACH
def test_without_any_one_of_its_headers_it_is_refused(case: Any) -> None:
    webhook, headers, body, now = case
    for name in headers:
        assert not is_signed(webhook, {k: v for k, v in headers.items() if k != name}, body, now)
        for value in ("", ",", "v1,", "sha256=", "t=,v1=", headers[name][:-70], "\xff\xff"):
            assert not is_signed(webhook, headers | {name: value}, body, now)


@TIMED
def test_an_old_one_and_one_from_the_future_are_refused(name: str) -> None:
    webhook, headers, body, now = CASES[name]
    for seconds in (-TOLERANCE_S, TOLERANCE_S):
        assert is_signed(webhook, headers, body, now + seconds)
    for seconds in (-TOLERANCE_S - 1, TOLERANCE_S + 1, 10**9):
        assert not is_signed(webhook, headers, body, now + seconds)


@TIMED
def test_a_time_or_an_id_that_was_changed_is_refused(name: str) -> None:
    webhook, headers, body, now = CASES[name]
    for old, new in ((str(now), str(now + 60)), (STANDARD_ID, STANDARD_ID[:-1] + "x")):
        changed = {key: value.replace(old, new) for key, value in headers.items()}
        assert is_signed(webhook, changed, body, now) is (changed == headers)


@pytest.mark.parametrize("time", ["", "abc", "-1", "1e9", " 1614265330", "١٦١٤٢٦٥٣٣٠", "9" * 5000])
def test_what_is_no_time_is_refused(time: str) -> None:
    assert not is_signed(
        STANDARD, STANDARD_HEADERS | {"webhook-timestamp": time}, STANDARD_BODY, STANDARD_TIME
    )


def test_a_sender_that_changes_its_secret_signs_with_both() -> None:
    right = STANDARD_HEADERS["webhook-signature"]
    wrong = "v1," + base64.b64encode(bytes(32)).decode()
    for given_, taken in ((f"{wrong} {right}", True), (f"{wrong} {wrong}", False)):
        headers = STANDARD_HEADERS | {"webhook-signature": given_}
        assert is_signed(STANDARD, headers, STANDARD_BODY, STANDARD_TIME) is taken
    for before, taken in ((SIGNATURES_MAX - 1, True), (SIGNATURES_MAX, False)):
        headers = STANDARD_HEADERS | {"webhook-signature": f"{wrong} " * before + right}
        assert is_signed(STANDARD, headers, STANDARD_BODY, STANDARD_TIME) is taken
    # A signature of another version is not compared: it may not be an HMAC.
    headers = STANDARD_HEADERS | {"webhook-signature": right.replace("v1,", "v1a,")}
    assert not is_signed(STANDARD, headers, STANDARD_BODY, STANDARD_TIME)


def test_two_times_and_more_fields_than_are_looked_at_are_refused() -> None:
    headers = stripe_headers()
    twice = {"stripe-signature": f"{headers['stripe-signature']},t={STRIPE_TIME}"}
    assert not is_signed(STRIPE, twice, STRIPE_BODY, STRIPE_TIME)
    headers["stripe-signature"] += ",v0=" * (STRIPE_FIELDS_MAX - 3)
    assert is_signed(STRIPE, headers, STRIPE_BODY, STRIPE_TIME)
    headers["stripe-signature"] += ",v0="
    assert not is_signed(STRIPE, headers, STRIPE_BODY, STRIPE_TIME)


def test_github_s_older_signature_is_not_taken() -> None:
    digest = hmac.new(GITHUB.secret.encode(), GITHUB_BODY, hashlib.sha1).hexdigest()
    headers = {"x-hub-signature": f"sha1={digest}"}
    assert not is_signed(GITHUB, headers, GITHUB_BODY, 0)


@given(st.binary(max_size=300), st.integers(min_value=10**9, max_value=2 * 10**9))
def test_what_the_official_library_signs_is_taken(body: bytes, now: int) -> None:
    text = body.decode("latin-1").encode().decode()
    signature = Sender(STANDARD.secret).sign("msg_1", datetime.fromtimestamp(now, UTC), text)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": signature,
    }
    assert is_signed(STANDARD, headers, text.encode(), now)


@given(
    st.sampled_from(list(CASES)),
    st.dictionaries(
        st.sampled_from(
            [
                *("webhook-id", "webhook-timestamp", "webhook-signature"),
                *("x-hub-signature-256", "stripe-signature"),
            ]
        ),
        st.text(st.characters(max_codepoint=255), max_size=60),
    ),
    st.binary(max_size=50),
)
def test_all_that_is_sent_is_refused(name: str, headers: dict[str, str], body: bytes) -> None:
    assert not is_signed(CASES[name][0], headers, body, 0)
