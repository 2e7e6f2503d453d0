"""Immutable objects that are created by keyword arguments."""

import pytest

from quiltfn.base.immutable import ByKeywords, Frozen


class Address(Frozen):
    host: str
    port: int = 80


class Named(Frozen):
    name: str


class Server(Address, Named):
    """An object with several base classes."""


class Even(Frozen):
    number: int

    def check(self) -> None:
        if self.number % 2:
            raise ValueError("odd")


def test_it_has_what_it_is_given_and_else_the_default() -> None:
    server = Server(host="a", name="x")
    assert (server.host, server.port, server.name) == ("a", 80, "x")
    assert Server(host="a", name="x", port=81).port == 81
    assert repr(Address(host="a")) == "Address(host='a', port=80)"
    with pytest.raises(TypeError, match="Server needs name"):
        Server(host="a")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Server has no hots, prot"):
        Server(host="a", name="x", hots="b", prot=1)  # type: ignore[call-arg]


class Job(ByKeywords):
    name: str
    pid: int = 0


def test_what_may_change_changes_for_itself_alone() -> None:
    job, other = Job(name="a"), Job(name="a")
    job.pid = 5
    assert (job.pid, other.pid, Job.pid) == (5, 0, 0)
    assert job != other
    with pytest.raises(TypeError, match="Job needs name"):
        Job(pid=1)  # type: ignore[call-arg]


def test_it_does_not_change() -> None:
    address = Address(host="a")
    with pytest.raises(AttributeError, match="Address does not change: port"):
        address.port = 81  # type: ignore[misc]
    assert address.replace(port=81) == Address(host="a", port=81)
    assert address == Address(host="a", port=80)
    assert address != address.replace(host="b")
    assert Named(name="a") != Address(host="a")


def test_it_is_checked_when_it_is_made_and_when_it_is_replaced() -> None:
    for make in (lambda: Even(number=1), lambda: Even(number=2).replace(number=3)):
        with pytest.raises(ValueError, match="odd"):
            make()
