"""Findings of `quiltfn doctor --fleet` for invented facts."""

import dataclasses
import time
from pathlib import Path

import pytest

from promises import promise
from quiltfn import __version__
from quiltfn.fleet import files
from quiltfn.fleet.files import NodeFile
from quiltfn.host.checks import Finding, Level
from quiltfn.model.member import Member, NodeState, Presence, Report
from quiltfn.operator import fleet_doctor
from quiltfn.settings import Settings
from quiltfn.store.database.compatibility import OLDEST
from quiltfn.store.fleet.facts import FleetFacts

pytestmark = promise("N63")

NOW = time.time()
PASSWORD = "a secret of the database"
TIMES = (2.0, 10.0, 60.0, 100.0)
GOOD = FleetFacts(
    settings={
        "server_version": "17.2",
        "max_connections": "100",
        "superuser_reserved_connections": "3",
        "synchronous_standby_names": "",
        "fsync": "on",
        "full_page_writes": "on",
    },
    latency_s=0.0004,
    clock_off_s=0.01,
    revision="0016",
    known="0016",
    oldest="0.1.0",
    is_superuser=False,
    foreign_tables=[],
    connections_max=97,
    connections_of_others=0,
    standbys=0,
    members=[Member(name="one", epoch=1, version="1", address="10.0.0.1:8443")],
)


def node(address: str = "10.0.0.1:8443", listen: str = "", days: int = 365) -> NodeFile:
    fleet = files.new_fleet("postgresql://q@db.example.com/q", PASSWORD, NOW)
    return files.new_node(fleet, "one", (address, listen or address), NOW, days)


def of(name: str, **changes: object) -> Finding:
    """The finding `name`, for facts without problems except these changes."""
    facts = dataclasses.replace(GOOD, **changes)  # type: ignore[arg-type]
    (found,) = [one for one in fleet_doctor.of_database(facts) if one.name == name]
    return found


def settings_with(**changes: str) -> dict[str, str]:
    return {**GOOD.settings, **changes}


def test_a_good_fleet_is_told_nothing_to_do() -> None:
    for finding in fleet_doctor.of_database(GOOD):
        assert (finding.level, finding.advice) == (Level.OK, ""), finding


@pytest.mark.parametrize(
    ("name", "changes", "level", "words"),
    [
        ("latency", {"latency_s": 0.05}, Level.WARN, "50.0 ms"),
        ("schema", {"revision": "0015"}, Level.WARN, "upgrades them to 0016"),
        ("schema", {"revision": "0999"}, Level.OK, "of a newer quiltfn"),
        ("schema", {"revision": "0999", "oldest": "999.0"}, Level.NO, "for quiltfn 999.0 or newer"),
        ("role", {"is_superuser": True}, Level.WARN, "superuser"),
        ("role", {"foreign_tables": ["function", "node"]}, Level.NO, "does not own 2"),
        ("synced", {"settings": settings_with(fsync="off")}, Level.WARN, "fsync off"),
        ("failover", {"standbys": 1}, Level.WARN, "can lose acknowledged data"),
        (
            "failover",
            {"standbys": 1, "settings": settings_with(synchronous_standby_names="*")},
            Level.OK,
            "wait for a synchronous standby",
        ),
        ("connections", {"connections_max": 4}, Level.WARN, "up to 5 connections"),
        ("connections", {"connections_of_others": 95}, Level.WARN, "allows 2"),
        ("clock", {"clock_off_s": -3600.0}, Level.WARN, "3600.00 s earlier"),
    ],
)
def test_fleet_weaknesses(name: str, changes: dict[str, object], level: Level, words: str) -> None:
    found = of(name, **changes)
    assert (found.level, bool(found.advice)) == (level, level is not Level.OK)
    assert words in found.sentence


def test_a_certificate_is_told_before_it_ends() -> None:
    own = node(days=40)
    assert fleet_doctor.certificate(own, NOW).level is Level.OK
    soon = fleet_doctor.certificate(own, NOW + 20 * 86_400)
    assert (soon.level, "20 days" in soon.sentence) == (Level.WARN, True)
    late = fleet_doctor.certificate(own, NOW + 50 * 86_400)
    assert (late.level, "expired" in late.sentence) == (Level.NO, True)


@pytest.mark.parametrize(
    ("member", "level", "words"),
    [
        (None, Level.OK, "not been started yet"),
        (Member(name="one", epoch=1, address="10.0.0.1:8443"), Level.OK, "ready, present"),
        (Member(name="one", epoch=1, state=NodeState.REMOVED), Level.NO, "was removed"),
        (Member(name="one", epoch=1, address="10.0.0.9:1"), Level.WARN, "serves at 10.0.0.9:1"),
    ],
)
def test_what_the_fleet_says_of_the_node(member: Member | None, level: Level, words: str) -> None:
    found = fleet_doctor.membership(node(), member)
    assert (found.level, words in found.sentence) == (level, True), found


@pytest.mark.parametrize(
    ("versions", "level", "words"),
    [
        ([__version__, __version__], Level.OK, "all running nodes"),
        ([__version__, "999.0.1"], Level.WARN, f"one has {__version__}, n1 has 999.0.1"),
        # This is the node that is to be upgraded.
        (["0.0.9", __version__], Level.WARN, "one has 0.0.9"),
        ([__version__, "0.0.9"], Level.NO, f"works with nodes of {OLDEST} or newer"),
    ],
)
def test_nodes_of_several_versions_are_named(versions: list[str], level: Level, words: str) -> None:
    names = ["one", *(f"n{number}" for number in range(1, len(versions)))]
    there = [
        Member(name=name, epoch=1, version=version)
        for name, version in zip(names, versions, strict=True)
    ]
    gone = Member(name="gone", epoch=1, version="0.0.1", presence=Presence.GONE)
    found = fleet_doctor.versions(node(), [*there, gone])
    assert (found.level, words in found.sentence) == (level, True), found
    assert "gone has" not in found.sentence


def test_nodes_with_other_times_are_named() -> None:
    same = Member(name="two", epoch=1, report=Report(times=TIMES))
    other = Member(name="three", epoch=1, report=Report(times=(1, 2, 3, 4)))
    gone = Member(name="four", epoch=1, presence=Presence.GONE, report=Report(times=(1, 2, 3, 5)))
    unknown = Member(name="five", epoch=1)  # from a release that doesn't report times
    settings = Settings()
    assert fleet_doctor.times(settings, [same, gone, unknown]).level is Level.OK
    found = fleet_doctor.times(settings, [same, other, gone])
    assert found.level is Level.WARN
    assert "three has 1 2 3 4" in found.sentence
    assert "fleet_reap_s 100" in found.sentence


@pytest.mark.parametrize(
    ("own", "level"),
    [
        (node("10.0.0.1:8443"), Level.OK),
        (node("127.0.0.1:8443"), Level.OK),
        (node("[fd00::1]:8443"), Level.OK),
        (node("8.8.8.8:8443", "10.0.0.1:8443"), Level.WARN),
        (node("10.0.0.1:8443", "[2606:4700::1]:8443"), Level.WARN),
    ],
)
def test_a_peer_port_at_a_public_address_is_told(own: NodeFile, level: Level) -> None:
    assert fleet_doctor.peer_port(own, is_running=True).level is level


def test_the_addresses_of_the_machine_are_read(tmp_path: Path) -> None:
    directory = tmp_path / "proc/net"
    directory.mkdir(parents=True)
    trie = "Main:\n  +-- 0.0.0.0/0 3\n     |-- 10.0.0.0\n        /24 link UNICAST\n"
    trie += "     |-- 10.0.0.7\n        /32 host LOCAL\n"
    trie += "     |-- 10.0.0.255\n        /32 link BROADCAST\n"
    (directory / "fib_trie").write_text(trie)
    (directory / "if_inet6").write_text("fd000000000000000000000000000001 02 40 00 80 eth0\n")
    assert fleet_doctor.addresses_of_machine(tmp_path) == ["10.0.0.7", "fd00::1"]
    assert fleet_doctor.addresses_of_machine(tmp_path / "none") == []


def test_a_file_that_cannot_be_used_is_the_only_finding(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text(files.as_text(node()))
    path.chmod(0o644)
    (found,) = fleet_doctor.examine(Settings(), path)
    assert (found.name, found.level) == ("fleet_file", Level.NO)
    assert "chmod 600" in found.sentence
    path.chmod(0o600)
    path.write_text(path.read_text().replace("format = 1", "format = 7"))
    (found,) = fleet_doctor.examine(Settings(), path)
    assert "format 7" in found.sentence


def test_without_its_database_the_rest_is_told_and_no_secret(tmp_path: Path) -> None:
    own = node("127.0.0.1:1")
    path = tmp_path / "one.toml"
    nobody = files.new_fleet("postgresql://q@127.0.0.1:1/q", PASSWORD, NOW)
    own = files.new_node(nobody, "one", ("127.0.0.1:0001", "127.0.0.1:0"), NOW, 365)
    files.write(path, files.as_text(own))
    found = list(fleet_doctor.examine(Settings(), path))
    assert [one.name for one in found] == ["fleet_file", "certificate", "store", "peer_port"]
    assert found[2].level is Level.NO
    said = "\n".join(f"{one.sentence} {one.advice}" for one in found)
    for secret in (PASSWORD, own.signing_key, own.key.splitlines()[1]):
        assert secret not in said
