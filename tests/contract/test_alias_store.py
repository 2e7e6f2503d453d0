"""The promises of `SqlAliases`."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from contract.stores import StoreOpener, a_function, a_version
from promises import promise
from quiltfn.model.alias import ALIASES_MAX, Alias, Share
from quiltfn.model.errors import NotFound, Outdated
from quiltfn.model.function import Function
from quiltfn.store import SqlStore
from quiltfn.store.functions.aliases import SqlAliases

pytestmark = promise("W22")

LIVE = Alias(
    name="live", version=1, also=Share(version=2, weight=0.1), revision=1, updated_at=1_760_000_000
)
NIGHTLY = Alias(name="Nightly", version=2, revision=1, updated_at=1_760_000_001)


async def created(store: SqlStore, function: Function) -> None:
    """Create a function with two versions."""
    await store.create(function, a_version(function))
    await store.save(function, a_version(function, 2))


async def test_what_is_saved_survives_a_restart(open_store: StoreOpener, tmp_path: Path) -> None:
    function, other = a_function(), a_function(name="g")
    async with open_store(tmp_path) as store:
        aliases = SqlAliases(store.database)
        for owner in (function, other):
            await created(store, owner)
            await aliases.save(owner.id, "live", LIVE, None)
        await aliases.save(function.id, "Nightly", NIGHTLY, None)
        changed = replace(LIVE, also=None, revision=2)
        await aliases.save(function.id, "live", changed, LIVE)
        await aliases.save(other.id, "live", None, LIVE)
    async with open_store(tmp_path) as store:
        aliases = SqlAliases(store.database)
        mine = [(function.id, one) for one in (NIGHTLY, changed)]
        assert await aliases.load() == mine
        assert await aliases.load([other.id]) == []
        assert await aliases.load([function.id]) == mine


async def test_a_change_of_what_is_another_by_now_is_refused(store: SqlStore) -> None:
    function = a_function()
    await created(store, function)
    aliases = SqlAliases(store.database)
    with pytest.raises(Outdated):
        await aliases.save(function.id, "live", LIVE, LIVE)
    await aliases.save(function.id, "live", LIVE, None)
    # An alias that was removed and created again begins with the same revision, so revisions alone
    # are not compared.
    for known in (None, replace(LIVE, revision=2), replace(LIVE, version=3)):
        with pytest.raises(Outdated):
            await aliases.save(function.id, "live", replace(LIVE, version=9), known)
        with pytest.raises(Outdated):
            await aliases.save(function.id, "live", None, known)
    assert [one for _, one in await aliases.load()] == [LIVE]
    await store.delete(function.id)
    assert await aliases.load() == []
    with pytest.raises(NotFound):
        await aliases.save(function.id, "live", LIVE, None)


@promise("W28")
async def test_another_node_s_default_or_last_alias_is_noticed(store: SqlStore) -> None:
    function = a_function()
    await created(store, function)
    aliases = SqlAliases(store.database)
    default = replace(LIVE, is_default=True)
    await aliases.save(function.id, "live", default, None)
    await aliases.save(function.id, "Nightly", NIGHTLY, None)
    for known in (None, NIGHTLY):  # a new alias, and an existing one
        name = "new" if known is None else NIGHTLY.name
        wanted = replace(NIGHTLY, name=name, is_default=True)
        with pytest.raises(Outdated):
            await aliases.save(function.id, name, wanted, known)
    await aliases.save(function.id, "live", replace(default, version=2), default)
    assert sum(one.is_default for _, one in await aliases.load()) == 1

    for number in range(ALIASES_MAX - 2):
        await aliases.save(function.id, f"a{number}", replace(NIGHTLY, name=f"a{number}"), None)
    with pytest.raises(Outdated):
        await aliases.save(function.id, "more", replace(NIGHTLY, name="more"), None)
    await aliases.save(function.id, "Nightly", replace(NIGHTLY, version=1), NIGHTLY)
    assert len(await aliases.load()) == ALIASES_MAX
