"""The catalog: a tenant sees only its own functions, in the order of their creation."""

import contextlib

import pytest
from msgspec.structs import replace

from contract.stores import a_function, a_version, ids
from promises import promise
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.model.errors import CapacityFull, NotFound, RateLimited
from quiltfn.ports import FunctionCounters


def an_entry(function_id: str, tenant_id: str = "a") -> Entry:
    function = a_function(id=function_id, tenant_id=tenant_id)
    return Entry(function, a_version(function), FunctionCounters())


def of(catalog: Catalog, tenant_id: str, after: str = "") -> list[str]:
    return [entry.function.id for entry in catalog.of_tenant(tenant_id, after)]


def test_the_fingerprint_follows_changes_and_not_the_fields_that_a_release_knows() -> None:
    """Two releases in one fleet must compute the same fingerprint, even if the newer one has more
    fields.
    """
    entry = an_entry(ids(1)[0])
    for change in ({"revision": 2}, {"updated_at": entry.function.updated_at + 1}):
        changed = Entry(replace(entry.function, **change), entry.version, entry.counters)
        assert changed.fingerprint() != entry.fingerprint()
    other = Entry(entry.function, replace(entry.version, id="other"), entry.counters)
    assert other.fingerprint() != entry.fingerprint()
    newer = Entry(replace(entry.function, description="a field"), entry.version, entry.counters)
    assert newer.fingerprint() == entry.fingerprint()


def test_a_tenant_sees_and_counts_its_own_alone_by_their_ids() -> None:
    """Functions may be added in any order. A function that was removed must not be found in any
    way.
    """
    catalog, made = Catalog(), ids(6)
    entries = {one: an_entry(one, "ab"[at % 2]) for at, one in enumerate(made)}
    for at in (3, 0, 5, 1, 4, 2):
        catalog.add(entries[made[at]])
    assert of(catalog, "a") == made[::2]
    assert of(catalog, "a", after=made[2]) == [made[4]]
    assert of(catalog, "a", after=made[5]) == []
    assert (catalog.count("a"), catalog.count("b"), catalog.count("c")) == (3, 3, 0)
    assert catalog.owned("b", [made[0], made[1], "gone"]) == [made[1]]
    catalog.remove(entries[made[2]])
    assert of(catalog, "a") == [made[0], made[4]]
    with pytest.raises(NotFound):
        catalog.by_id("a", made[2])
    for at in (0, 4):
        catalog.remove(entries[made[at]])
    assert (of(catalog, "a"), catalog.count("a"), of(catalog, "c")) == ([], 0, [])


@promise("A24")
def test_a_tenant_has_half_of_the_room_and_all_have_the_whole() -> None:
    """All functions of this test are reserved at the same time, so room is counted although none of
    them is in the catalog yet.
    """
    spec = an_entry(ids(1)[0]).version.spec
    catalog = Catalog(4 * spec.size)
    with contextlib.ExitStack() as making:
        for tenant in "aabb":
            making.enter_context(catalog.reserve(tenant, spec))
        with pytest.raises(RateLimited, match="the tenant's functions"), catalog.reserve("a", spec):
            pass
        with pytest.raises(CapacityFull, match="all functions"), catalog.reserve("c", spec):
            pass
        # The change needs no more room than before.
        with catalog.reserve("a", spec, instead_of=spec):
            pass
    with catalog.reserve("c", spec):  # unused reservations have released their room
        pass


def test_what_is_in_the_catalog_counts_once() -> None:
    made, catalog = ids(3), None
    size = an_entry(made[0]).version.spec.size
    catalog = Catalog(4 * size)
    for function_id in made[:2]:
        entry = an_entry(function_id)
        with catalog.reserve("a", entry.version.spec):
            catalog.add(entry)
    with pytest.raises(RateLimited), catalog.reserve("a", entry.version.spec):
        pass
    catalog.remove(entry)
    with catalog.reserve("a", entry.version.spec):
        catalog.add(entry)


def test_a_change_makes_a_new_entry_and_leaves_the_old_one_as_it_was() -> None:
    """A reader of the old entry continues to see the function as it was."""
    catalog, before = Catalog(), an_entry(ids(1)[0])
    catalog.add(before)
    after = catalog.replace(replace(before.function, name="other", revision=2))
    assert catalog.get(before.function.id) is after
    assert before.function.name != after.function.name
    assert after.version is before.version
    assert after.counters is before.counters
    with pytest.raises(AttributeError, match="immutable"):
        before.function = after.function  # type: ignore[misc]
    assert catalog.by_name("a", "other") is after
    with pytest.raises(NotFound):
        catalog.by_name("a", before.function.name)


def test_an_older_change_does_not_replace_a_newer_one() -> None:
    catalog, entry = Catalog(), an_entry(ids(1)[0])
    catalog.add(entry)
    newer = catalog.replace(replace(entry.function, revision=3))
    assert catalog.replace(replace(entry.function, revision=2)) is newer


def test_a_function_that_is_gone_cannot_be_changed() -> None:
    catalog, entry = Catalog(), an_entry(ids(1)[0])
    catalog.add(entry)
    catalog.remove(entry)
    catalog.remove(entry)  # removing an entry twice is harmless
    with pytest.raises(NotFound):
        catalog.replace(entry.function)
