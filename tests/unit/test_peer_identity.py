"""Identity headers between nodes: valid once, for one request, on one connection."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from promises import promise
from quiltfn.fleet.identity import BadIdentity, Side, Signer, Verifier
from quiltfn.model.access import Caller, Scope
from quiltfn.model.forwarded import ForwardedCall

pytestmark = promise("N5")

SIDE = Side(key=b"k" * 32, fleet_id="f" * 32, asker="one", asked="two")
CALLER = Caller(tenant_id="acme", scope=Scope.ADMIN, credential="key", expires_at=1)
CALL = ForwardedCall(function_id="f", invocation_id="i", client="10.0.0.9", caller=CALLER)
GET = ("GET", "/api/functions?limit=1")


def pair(side: Side = SIDE) -> tuple[Signer, Verifier]:
    verifier = Verifier(SIDE)
    return Signer(side, verifier.nonce), verifier


def test_calls_come_across_in_their_order() -> None:
    signer, verifier = pair()
    for call in (CALL, None, replace(CALL, caller=None), CALL):
        assert verifier.check(signer.sign(*GET, call), *GET) == call


def test_a_header_is_of_use_once() -> None:
    signer, verifier = pair()
    value = signer.sign(*GET, CALL)
    verifier.check(value, *GET)
    with pytest.raises(BadIdentity, match="of another request on the connection"):
        verifier.check(value, *GET)
    later = signer.sign(*GET, CALL)
    assert verifier.check(later, *GET) == CALL


def test_a_header_that_is_refused_uses_nothing_up() -> None:
    signer, verifier = pair()
    value = signer.sign(*GET, CALL)
    for other in (("POST", GET[1]), ("GET", "/api/keys")):
        with pytest.raises(BadIdentity, match="is not that of the request"):
            verifier.check(value, *other)
    assert verifier.check(value, *GET) == CALL


@pytest.mark.parametrize(
    "side",
    [
        replace(SIDE, key=b"x" * 32),
        replace(SIDE, fleet_id="0" * 32),
        replace(SIDE, asker="three"),
        replace(SIDE, asked="three"),
        SIDE,  # the same request on another connection
    ],
)
def test_a_header_of_another_key_fleet_node_or_connection_is_refused(side: Side) -> None:
    signer, _ = pair(side)
    _, verifier = pair()
    with pytest.raises(BadIdentity, match="is not that of the request"):
        verifier.check(signer.sign(*GET, CALL), *GET)


FORGERIES: list[Callable[[str], str | None]] = [
    lambda _: None,
    lambda _: "",
    lambda _: "1",
    lambda _: "1..",
    lambda value: value[:-1],
    lambda value: value + "0",
    lambda value: value[:-1] + "é",
    lambda value: "2" + value[1:],
    lambda value: "1.." + value.rpartition(".")[2],  # the same signature without a caller
    lambda value: value.replace("1.e", "1.f", 1),
    lambda value: " " + value,
]


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_header_that_was_changed_is_refused(forge: Callable[[str], str | None]) -> None:
    signer, verifier = pair()
    value = signer.sign(*GET, CALL)
    with pytest.raises(BadIdentity):
        verifier.check(forge(value), *GET)
    assert verifier.check(value, *GET) == CALL  # control: the unchanged header is valid


def test_what_is_said_of_a_call_has_a_bound() -> None:
    signer, verifier = pair()
    with pytest.raises(BadIdentity, match="too long"):
        verifier.check(signer.sign(*GET, replace(CALL, client="x" * 9000)), *GET)
