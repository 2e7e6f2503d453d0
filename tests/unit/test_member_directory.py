"""Which nodes a node sends requests to and answers, by the store's list of members."""

from quiltfn.fleet.directory import OWN_NAME, REMOVED, UNKNOWN, MemberDirectory
from quiltfn.model.member import Member, NodeState, Presence


def member(name: str, **fields: object) -> Member:
    fields = {"epoch": 1, "address": f"{name}:1", "version": "1", **fields}
    return Member(name=name, **fields)  # type: ignore[arg-type]


def test_only_members_are_known_and_only_an_operator_removes_them() -> None:
    known = MemberDirectory("one")
    assert known.refusal("two") == UNKNOWN
    assert known.address("two") is None
    known.learned(
        [
            member("one"),
            member("two"),
            member("out", state=NodeState.REMOVED),
            member("gone", presence=Presence.GONE),
            member("left", presence=Presence.LEFT),
            member("draining", state=NodeState.DRAINING),
            member("alone", version=""),
        ]
    )
    for name in ("two", "gone", "left", "draining"):
        assert (known.refusal(name), known.address(name)) == (None, f"{name}:1")
    assert known.refusal("out") == REMOVED
    assert known.refusal("one") == OWN_NAME
    assert known.refusal("alone") == UNKNOWN, "a server that was alone has a row, too"
    # A new list replaces the previous one.
    known.learned(
        [
            member("two", state=NodeState.REMOVED, address="elsewhere:2"),
            member("left", address=""),
        ]
    )
    assert (known.refusal("two"), known.address("two")) == (REMOVED, "elsewhere:2")
    assert (known.refusal("left"), known.address("left")) == (None, None)
    assert known.refusal("gone") == UNKNOWN
