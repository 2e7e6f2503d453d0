"""Which other nodes a node considers lost. The tests explain the rules."""

import pytest
from msgspec.structs import replace

from promises import promise
from quiltfn.fleet.observer import Observer, Times
from quiltfn.model.member import Member, Presence, Report

pytestmark = promise("N31")

TIMES = Times()


def a_member(name: str, **changes: object) -> Member:
    return replace(Member(name=name, epoch=1, version="1.0"), **changes)


class Watch:
    """A node that looks at the others every two seconds, by a clock that a test moves."""

    def __init__(self, *names: str) -> None:
        """`names`: the first is the node that looks."""
        self.observer, self.now = Observer(names[0], TIMES), 1000.0
        self.members = {name: a_member(name) for name in names}
        self.standing: set[str] = set()  # nodes that send no heartbeats

    def look(self) -> list[str]:
        return [one.name for one in self.observer.look([*self.members.values()], self.now)]

    def change(self, name: str, **changes: object) -> None:
        self.members[name] = replace(self.members[name], **changes)

    def for_seconds(self, seconds: float) -> list[tuple[float, str]]:
        """Let time pass. Returns the nodes that were to be taken over, each with the time after
        which this was first due.
        """
        found: dict[str, float] = {}
        began = self.now
        while self.now < began + seconds:
            for name in self.members.keys() - self.standing:
                self.change(name, beat=self.members[name].beat + 1)
            for name in self.look():
                found.setdefault(name, self.now - began)
            self.now += 2.0
        return [(after, name) for name, after in found.items()]


def test_nodes_that_beat_are_left_alone() -> None:
    assert Watch("a", "b", "c").for_seconds(1000) == []


def test_nodes_that_beat_are_not_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 200 nodes, sorting at each look, once for each node, took most of the time between two
    looks.
    """
    watch = Watch("a", "b", "c")
    watch.for_seconds(10)
    monkeypatch.setattr(Observer, "_rank", lambda *_: pytest.fail("they were sorted"))
    assert watch.for_seconds(90) == []


@pytest.mark.parametrize(
    ("names", "changes", "expected"),
    [
        ("cb", {}, [(98.0, "b")]),  # the last heartbeat was seen 2 s before
        ("b", {}, []),  # no node takes itself over
        ("cb", {"presence": Presence.LEFT}, [(0.0, "b")]),
        ("cb", {"presence": Presence.GONE}, []),  # b was taken over already
        # The next node by name takes over first. The other nodes wait longer.
        ("cabd", {}, [(98.0, "b")]),
        ("dabc", {}, [(100.0, "b")]),
        ("abcd", {}, [(102.0, "b")]),
    ],
)
def test_a_node_whose_beat_stands_still_is_taken_over_after_the_reap_time(
    names: str, changes: dict[str, object], expected: list[tuple[float, str]]
) -> None:
    watch = Watch(*names)
    watch.for_seconds(10)
    watch.standing = {"b"}
    watch.change("b", **changes)
    assert watch.for_seconds(1000) == expected


@promise("N34")
def test_a_node_is_waited_for_as_long_as_its_own_times_say() -> None:
    watch = Watch("c", "b")
    watch.change("b", report=Report(times=(2.0, 10.0, 150.0, 200.0)))
    watch.for_seconds(10)
    watch.standing = {"b"}
    assert watch.for_seconds(200) == [(154.0, "b")]
    sooner = Watch("c", "b")
    sooner.change("b", report=Report(times=(0.2, 1.0, 2.0, 8.0)))
    sooner.for_seconds(10)
    sooner.standing = {"b"}
    assert sooner.for_seconds(200) == [(98.0, "b")]


def test_another_epoch_is_a_movement_as_a_beat_is() -> None:
    watch = Watch("c", "b")
    watch.for_seconds(2)
    watch.standing = {"b"}
    assert watch.for_seconds(90) == []
    watch.change("b", epoch=2, beat=0)
    assert watch.for_seconds(90) == []


def test_who_could_not_look_waits_again_for_the_whole_time() -> None:
    """The store was away for two minutes. No node could send a heartbeat, so none may count as
    lost.
    """
    watch = Watch("c", "b")
    watch.for_seconds(10)
    watch.now += 120
    assert watch.look() == []
    watch.standing = {"b"}
    assert watch.for_seconds(90) == []
    assert watch.for_seconds(20) != []


@pytest.mark.parametrize(("gap_s", "is_due"), [(TIMES.fence_s, True), (TIMES.fence_s + 1, False)])
def test_a_short_pause_counts_and_a_longer_one_does_not(gap_s: float, is_due: bool) -> None:
    watch = Watch("c", "b")
    watch.standing = {"b"}
    assert watch.for_seconds(96) == []
    watch.now += gap_s - 2
    assert (watch.look() == ["b"]) is is_due


def test_who_is_gone_is_nobody_to_wait_for() -> None:
    watch = Watch("d", "b", "c")
    watch.for_seconds(10)
    watch.change("c", presence=Presence.GONE)
    watch.standing = {"b", "c"}
    assert watch.for_seconds(200) == [(98.0, "b")]


def test_of_all_nodes_that_look_one_is_due_at_a_time() -> None:
    names = [f"n{number:02}" for number in range(10)]
    first = []
    for name in names[1:]:
        watch = Watch(name, *(one for one in names if one != name))
        watch.for_seconds(4)
        watch.standing = {names[0]}
        first += [after for after, _ in watch.for_seconds(200)]
    assert len(set(first)) == len(names) - 1
