"""Which images lack a copy, and which node is asked to take one."""

import pytest

from promises import promise
from quiltfn.fleet.image_copies import CopyTable, ImageNodes
from quiltfn.model.member import Member, NodeState, Presence, Report
from quiltfn.ports.fleet import ImageCopy

pytestmark = promise("N42")

PATIENCE_S = 60.0
X, Y = "x" * 64, "y" * 64


def member(name: str, state: str = "ready", presence: str = "present") -> Member:
    """A node. `presence`: may also be "leaving" for a present node."""
    is_leaving = presence == "leaving"
    return Member(
        name=name,
        epoch=1,
        state=NodeState(state),
        presence=Presence.PRESENT if is_leaving else Presence(presence),
        version="2.0",
        report=Report(is_leaving=is_leaving),
    )


def nodes(*members: Member, now: float = 0.0) -> ImageNodes:
    made = ImageNodes(PATIENCE_S)
    made.read(members, now)
    return made


def table(**copies: str) -> CopyTable:
    """A table of copies: `x="one two"` means that nodes one and two have image x."""
    made = CopyTable()
    made.put(ImageCopy(key * 64, node) for key, names in copies.items() for node in names.split())
    return made


ONE, TWO, THREE = member("one"), member("two"), member("three")


@pytest.mark.parametrize(
    ("there", "having", "is_lacking"),
    [
        ((ONE, TWO, THREE), "one two", False),
        ((ONE, TWO, THREE), "one", True),
        ((ONE, TWO, THREE), "one two three", False),
        ((ONE,), "one", False),  # there is no second node
        ((ONE, TWO), "one", True),
        ((ONE, member("two", "cordoned"), THREE), "one two", False),
        ((ONE, member("two", "draining"), THREE), "one two", True),
        ((ONE, member("two", "draining")), "one two", False),
        ((ONE, member("two", "removed", "left"), THREE), "one two", True),
        ((member("one", "draining"), TWO, THREE), "one", True),
        ((ONE, THREE), "one two", True),  # node two is no longer known
    ],
)
def test_images_need_two_copies(there: tuple[Member, ...], having: str, is_lacking: bool) -> None:
    found = table(x=having).lacking([X], nodes(*there), 0.0)
    assert found == ([X] if is_lacking else [])


@promise("N76")
@pytest.mark.parametrize("presence", ["leaving", "left", "gone"])
def test_a_node_that_is_away_for_a_moment_counts(presence: str) -> None:
    known, copies = nodes(ONE, TWO, THREE), table(x="one two")
    away = (ONE, member("two", presence=presence), THREE)
    known.read(away, 100.0)
    assert copies.lacking([X], known, 100.0) == []
    known.read(away, 100.0 + PATIENCE_S - 1)
    assert copies.lacking([X], known, 100.0 + PATIENCE_S - 1) == []
    known.read(away, 100.0 + PATIENCE_S)
    assert copies.lacking([X], known, 100.0 + PATIENCE_S) == [X]
    # The node was there meanwhile, so the time starts anew.
    known.read((ONE, TWO, THREE), 200.0)
    known.read(away, 201.0)
    assert copies.lacking([X], known, 201.0) == []


def test_those_that_can_be_asked_are_there_and_not_removed() -> None:
    known = nodes(
        ONE,
        member("two", "draining"),
        member("three", "removed"),
        member("four", presence="gone"),
        member("five", presence="leaving"),
        Member(name="alone", epoch=1),  # a server without a fleet, which used the database before
    )
    assert [sorted(found) for found in (known.there, known.able, known.removed)] == [
        ["five", "one", "two"],
        ["one"],
        ["three"],
    ]


def test_what_the_store_says_replaces_what_was_known() -> None:
    known = table(x="one two", y="two")
    known.put([ImageCopy(X, "three")], {X})
    assert [sorted(known.nodes_of(one)) for one in (X, Y)] == [["three"], ["two"]]
    assert known.among(frozenset({"one", "two"})) == ["two"]
    known.put([], {X})
    assert known.nodes_of(X) == frozenset()
    known.put([ImageCopy(Y, "one")])  # without a selection, the whole table is replaced
    assert [sorted(known.nodes_of(one)) for one in (X, Y)] == [[], ["one"]]
    assert known.among(frozenset()) == []
