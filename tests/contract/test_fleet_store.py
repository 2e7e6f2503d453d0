"""The database of a fleet: who may open it, and with which message others are refused."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

import postgresql
from contract.stores import BUSY_TIMEOUT_S, HELD_S, a_stored_function
from promises import promise
from quiltfn.model.errors import StoreUnavailable
from quiltfn.store import SqlStore, StoreBroken
from quiltfn.store.backup.copy import copy
from quiltfn.store.backup.copy_postgresql import source, target
from quiltfn.store.fleet.init import begin_fleet
from quiltfn.store.opening_postgresql import open_as_node, open_postgresql

pytestmark = promise("N3")

FLEET = "0123456789abcdef" * 2


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An empty database, assigned to the fleet."""
    found = postgresql.database_of(tmp_path)
    begin_fleet(found, None, FLEET)
    return found


def node(
    url: str, path: Path, name: str, fleet_id: str = FLEET, wait_s: float = BUSY_TIMEOUT_S
) -> AbstractAsyncContextManager[SqlStore]:
    """A node of the fleet. `wait_s`: how long it waits for locks that another node holds, or held
    until PostgreSQL ended its connection.
    """
    return open_as_node(
        url, path / name, None, node_id=name, fleet_id=fleet_id, busy_timeout_s=wait_s
    )


def refused(
    url: str, path: Path, name: str, fleet_id: str = FLEET
) -> AbstractAsyncContextManager[SqlStore]:
    """A node that can't start, because of another server."""
    return node(url, path, name, fleet_id, HELD_S)


async def test_nodes_of_different_names_share_it(url: str, tmp_path: Path) -> None:
    async with node(url, tmp_path, "one") as first, node(url, tmp_path, "two") as second:
        await first.ping()
        await second.ping()
        boots = first.database.boot, second.database.boot
        assert [boot.node_id for boot in boots] == ["one", "two"]
        assert not any(boot.is_alone for boot in boots)
        assert boots[0].epoch < boots[1].epoch
    # A second node of the same name waits for the first.
    async with node(url, tmp_path, "one") as first:
        with pytest.raises(StoreUnavailable, match="A node named one is serving from this"):
            async with refused(url, tmp_path / "other", "one"):
                pass
        await first.ping()
        epoch = first.database.boot.epoch
    async with node(url, tmp_path / "other", "one") as again:
        assert again.database.boot.epoch == epoch + 1


async def test_a_new_connection_takes_the_lock_of_a_name_again(url: str, tmp_path: Path) -> None:
    async with node(url, tmp_path, "one") as first:
        await first.ping()
        postgresql.running().disconnect(postgresql.name_of(url))
        async with node(url, tmp_path / "other", "one"):
            first.database.busy_timeout_s = HELD_S
            with pytest.raises(StoreUnavailable, match="A node named one"):
                await first.database.write(lambda _: None)
            first.database.busy_timeout_s = BUSY_TIMEOUT_S
        # The first node has the lock again, but the other node has ended its work.
        with pytest.raises(StoreUnavailable, match="started again elsewhere"):
            await first.database.write(lambda _: None)
        with pytest.raises(StoreUnavailable, match="A node named one"):
            async with refused(url, tmp_path / "other", "one"):
                pass


async def test_a_node_takes_no_data_directory_of_another_one(url: str, tmp_path: Path) -> None:
    async with node(url, tmp_path, "one"):  # not even the directory of a running node
        shared = open_as_node(
            url, tmp_path / "one", None, node_id="two", fleet_id=FLEET, busy_timeout_s=HELD_S
        )
        with pytest.raises(StoreBroken, match="Another quiltfn is serving from"):
            async with shared:
                pass
    (tmp_path / "one").rename(tmp_path / "two")
    with pytest.raises(StoreBroken, match=r"is the data directory of the node one, and this one"):
        async with node(url, tmp_path, "two"):
            pass
    (tmp_path / "two").rename(tmp_path / "one")
    async with node(url, tmp_path, "one") as first, node(url, tmp_path, "two") as second:
        await first.ping()
        await second.ping()


async def test_a_server_alone_and_a_fleet_exclude_each_other(tmp_path: Path) -> None:
    url = postgresql.database_of(tmp_path)
    async with open_postgresql(url, tmp_path / "alone", node_id="alone") as alone:
        with pytest.raises(StoreBroken, match=r"A server uses .*: stop it first"):
            begin_fleet(url, None, FLEET)
        await alone.ping()
        epoch = alone.database.boot.epoch
    with pytest.raises(StoreBroken, match="The database is no fleet's: quiltfn fleet init"):
        async with node(url, tmp_path, "one"):
            pass
    begin_fleet(url, None, FLEET)
    with pytest.raises(StoreBroken, match=f"is a fleet's already .{FLEET}."):
        begin_fleet(url, None, "f" * 32)
    with pytest.raises(StoreBroken, match=r"The database is a fleet's\. Start with --fleet FILE"):
        async with open_postgresql(url, tmp_path / "alone", node_id="alone"):
            pass
    async with node(url, tmp_path, "one") as first:
        # What was stored before belongs to the fleet now.
        assert first.database.boot.epoch == epoch + 1
        with pytest.raises(StoreUnavailable, match="Another quiltfn"):
            async with open_postgresql(url, tmp_path / "alone", busy_timeout_s=HELD_S):
                pass
        await first.ping()
        async with open_postgresql(url, tmp_path / "tool", alone=False) as tool:
            await tool.ping()  # a command beside the nodes, such as quiltfn keys


async def test_another_fleets_node_is_refused_and_leaves_no_trace(url: str, tmp_path: Path) -> None:
    epochs = "SELECT name, epoch FROM node ORDER BY name"
    name = postgresql.name_of(url)
    async with node(url, tmp_path, "one"):
        before = postgresql.running().run(epochs, name)
        assert before
        for named in ("one", "two"):
            with pytest.raises((StoreBroken, StoreUnavailable), match=r"another fleet|named one"):
                async with refused(url, tmp_path / "other", named, "f" * 32):
                    pass
    with pytest.raises(StoreBroken, match=f"another fleet's .{FLEET}.; the file .* is of ffff"):
        async with node(url, tmp_path / "other", "one", "f" * 32):
            pass
    assert postgresql.running().run(epochs, name) == before


def test_a_copy_is_no_fleets(url: str, tmp_path: Path) -> None:
    empty = postgresql.database_of(tmp_path / "copy")
    copied: dict[str, int] = {}
    with source(url) as origin, target(empty) as goal:
        copy(origin, goal, copied.__setitem__)
    assert "fleet" not in copied
    assert "function" in copied
    begin_fleet(empty, None, "f" * 32)  # a fleet's database would be refused here


async def test_what_a_node_has_stored_is_there_after_postgresql_was_killed(tmp_path: Path) -> None:
    """PostgreSQL writes commits to disk later. A node waits for the disk only after its turn at the
    database, but must do so before it acknowledges a write.
    """
    with postgresql.started() as cluster:
        found = cluster.create("fleet")
        begin_fleet(found, None, FLEET)
        for number in range(3):
            async with node(found, tmp_path, f"n{number}") as store:
                function = await a_stored_function(store, name=f"f{number}")
                cluster.kill()
            cluster.start()
            async with node(found, tmp_path, "another") as store:
                assert await store.find(function.id) is not None
