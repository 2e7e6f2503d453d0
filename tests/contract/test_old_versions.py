"""A new version removes old ones, but none that anything needs. Nothing can begin to need a removed
one.
"""

from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import insert

from contract.pieces import a_piece
from contract.stores import a_function, a_version
from promises import promise
from quiltfn.model.alias import Alias, Share
from quiltfn.model.errors import NotFound, RateLimited
from quiltfn.model.function import Function
from quiltfn.model.retention import VersionLimits
from quiltfn.store import SqlAliases, SqlStore, SqlWork
from quiltfn.store.database import tables

pytestmark = promise("D42")

UNBOUND = VersionLimits(kept=10_000, tenant_bytes=0)


async def with_versions(
    store: SqlStore,
    count: int,
    limits: VersionLimits = UNBOUND,
    *,
    name: str = "f",
    tenant: str = "t",
    size: int = 10,
) -> Function:
    function = replace(a_function(name=name), tenant_id=tenant)
    await store.create(function, sized(function, 1, size))
    for number in range(2, count + 1):
        function = await update(store, function, number, limits, size)
    return function


async def update(
    store: SqlStore, function: Function, number: int, limits: VersionLimits, size: int = 10
) -> Function:
    changed = replace(function, current_version=number)
    return await store.save(changed, sized(function, number, size), limits=limits)


def sized(function: Function, number: int, size: int) -> Any:
    version = replace(a_version(function), id=f"{function.id}-{number:05}", number=number)
    return replace(version, spec=replace(version.spec, handler="x" * size))


async def numbers(store: SqlStore, function: Function) -> list[int]:
    return sorted(one.number for one in (await store.versions(function.id)).items)


@pytest.mark.parametrize(
    ("limits", "size", "left"),
    [
        (UNBOUND, 10, [1, 2, 3, 4, 5, 6]),
        (VersionLimits(kept=4, tenant_bytes=0), 10, [3, 4, 5, 6]),
        (VersionLimits(kept=100, tenant_bytes=40_000), 10_000, [4, 5, 6]),
        # The current and the previous version stay, however large they are.
        (VersionLimits(kept=100, tenant_bytes=1), 10_000, [5, 6]),
    ],
)
async def test_the_newest_versions_stay_in_number_and_bytes(
    limits: VersionLimits, size: int, left: list[int], store: SqlStore
) -> None:
    function = await with_versions(store, 6, limits, size=size)
    assert await numbers(store, function) == left
    assert await store.newest_number(function.id) == 6


async def test_each_function_of_a_tenant_has_an_equal_share(store: SqlStore) -> None:
    limits = VersionLimits(kept=100, tenant_bytes=80_000)
    await with_versions(store, 1, name="g")
    await with_versions(store, 1, name="h", tenant="another")
    function = await with_versions(store, 6, limits, size=10_000)
    assert await numbers(store, function) == [4, 5, 6]


async def test_what_is_current_or_named_stays(store: SqlStore) -> None:
    function = await with_versions(store, 6)
    aliases = SqlAliases(store.database)
    both = Alias(name="a", version=1, also=Share(version=3, weight=0.5), revision=1, updated_at=1)
    await aliases.save(function.id, "a", both, None)
    given = {"invocation_id": "i", "tenant_id": "t", "function_id": function.id, "version": 4}
    given |= {"caller": "k", "may_write": True, "size_bytes": 1, "is_encrypted": False}
    await store.database.write(
        lambda connection: connection.execute(insert(tables.input_table), given) and None
    )
    # The function was rolled back.
    function = await store.save(replace(function, current_version=2))
    limits = VersionLimits(kept=2, tenant_bytes=0)
    failed = await store.save(
        function, sized(function, 7, 10), limits=limits
    )  # the new version cannot become current
    assert await numbers(store, function) == [1, 2, 3, 4, 6, 7]
    await aliases.save(function.id, "a", None, both)
    await update(store, failed, 8, limits)
    assert await numbers(store, function) == [4, 7, 8]


async def test_versions_that_must_stay_are_bounded_as_well(store: SqlStore) -> None:
    function = await with_versions(store, 6, size=10_000)
    aliases = SqlAliases(store.database)
    for number in (1, 2, 3):
        alias = Alias(name=f"a{number}", version=number, revision=1, updated_at=1)
        await aliases.save(function.id, alias.name, alias, None)
    limits = VersionLimits(kept=100, tenant_bytes=25_000)
    with pytest.raises(RateLimited, match="old versions that aliases and kept inputs name take"):
        await update(store, function, 7, limits, 10_000)
    assert await numbers(store, function) == [1, 2, 3, 4, 5, 6]
    await aliases.save(function.id, "a3", None, alias)
    await update(store, function, 7, limits, 10_000)  # control: without one alias, there is room
    assert await numbers(store, function) == [1, 2, 6, 7]


async def test_nothing_begins_to_need_a_version_that_is_gone(store: SqlStore) -> None:
    function = await with_versions(store, 4, VersionLimits(kept=2, tenant_bytes=0))
    with pytest.raises(NotFound, match="no version 1: it was not made, or was removed"):
        await store.save(replace(function, current_version=1))
    alias = Alias(name="a", version=4, revision=1, updated_at=1)
    aliases = SqlAliases(store.database)
    with pytest.raises(NotFound, match="no version 2"):
        await aliases.save(function.id, "a", replace(alias, version=2), None)
    queue = SqlWork(store.database)
    piece = a_piece(function)
    with pytest.raises(NotFound, match="no version 1"):
        await queue.accept(replace(piece, input=replace(piece.input, version=1)))
    # Control: version 3 still exists.
    await queue.accept(replace(piece, input=replace(piece.input, version=3)))
    await aliases.save(function.id, "a", alias, None)
    await store.save(replace(function, current_version=3))
