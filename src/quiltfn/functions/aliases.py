"""The aliases of functions in memory, and the versions that they select for invocations."""

from collections.abc import Collection, Mapping
from random import Random

import msgspec

from quiltfn.base.mirror import Mirror
from quiltfn.base.others import Others
from quiltfn.base.signal import Signal
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.functions.version_cache import KnownVersions
from quiltfn.model.alias import ALIASES_MAX, Alias
from quiltfn.model.errors import (
    Conflict,
    NotFound,
    Outdated,
    PreconditionFailed,
    StoreUnavailable,
    older_node,
)
from quiltfn.model.function import Function
from quiltfn.model.version import Version
from quiltfn.ports import Clock
from quiltfn.store.functions.aliases import SqlAliases

# Maximum number of attempts to change an alias while other nodes change it, too.
TRIES = 5


class Aliases(Mirror[dict[str, Alias]]):
    """The aliases of functions, by name.

    `dice`: chooses between two versions. `changing`: a lock, held while an alias is set, and while
    a change of a function moves its aliases.
    """

    def __init__(
        self,
        store: SqlAliases,
        catalog: Catalog,
        versions: KnownVersions,
        clock: Clock,
        others: Others | None = None,
        dice: Random | None = None,
    ) -> None:
        super().__init__()
        self.changing = self._changing
        self._store, self._catalog, self.versions = store, catalog, versions
        self._clock, self.others, self._dice = clock, others or Others(), dice or Random()
        # Emitted when aliases changed: the function's id.
        self.on_change: Signal[str] = Signal()
        # Emitted when a canary was rolled back: the tenant, the function, the alias before and
        # after.
        self.on_rolled_back: Signal[str, str, Alias, Alias] = Signal()
        # The default alias of each function that has one: see `Alias.is_default`.
        self.defaults: dict[str, Alias] = {}

    def of(self, function_id: str) -> list[Alias]:
        """The aliases of a function, by name."""
        found = self._rows.get(function_id, {})
        return [found[name] for name in sorted(found)]

    def get(self, function_id: str, name: str) -> Alias:
        """Raises `NotFound`."""
        alias = self._rows.get(function_id, {}).get(name)
        if alias is None:
            raise NotFound(f"the function has no alias {name}")
        return alias

    def names(self, function_id: str, version: int) -> bool:
        """Whether an alias of the function names this version."""
        return any(version in one.versions for one in self.of(function_id))

    async def version(self, entry: Entry, name: str) -> Version:
        """The version for an invocation that names this alias. Raises `NotFound` and
        `StoreUnavailable`.
        """
        if name not in self._rows.get(entry.function.id, {}):
            await self.others.hear_of_missing()
        number = self.get(entry.function.id, name).choose(self._dice.random())
        return await self.versions.of(entry, number)

    async def default_version(self, entry: Entry) -> Version:
        """The version for an invocation that names none, if the function has a default alias."""
        alias = self.defaults.get(entry.function.id)
        if alias is None:
            return entry.version
        return await self.versions.of(entry, alias.choose(self._dice.random()))

    async def set(
        self,
        entry: Entry,
        alias: Alias,
        expected: Collection[str] | None,
        is_default: bool | None = None,
    ) -> Alias:
        """Create or replace an alias. `is_default` None: the present value is kept. Raises
        `PreconditionFailed` if the alias matches none of the `expected` fingerprints, `NotFound`
        for a version that does not exist, and `Conflict` for too many aliases, a second default, or
        a default while a node has an older version.
        """
        for number in alias.versions:
            await self.versions.of(entry, number)
        changed = await self._change(entry.function.id, alias.name, alias, expected, is_default)
        assert changed is not None, "it was set"
        return changed

    async def remove(self, entry: Entry, name: str, expected: Collection[str] | None) -> None:
        """Remove an alias. Raises `NotFound` and `PreconditionFailed`."""
        await self._change(entry.function.id, name, None, expected)

    async def roll_back(self, function_id: str, alias: Alias, why: str) -> Function | None:
        """Remove the second version from the alias. Returns the function; None if the alias was
        changed meanwhile. Raises `StoreUnavailable`.
        """
        expected = {alias.fingerprint()}
        try:
            await self._change(function_id, alias.name, alias.without_canary(why), expected)
            return self._catalog.get(function_id).function
        except (NotFound, PreconditionFailed, Outdated):
            return None

    async def _change(
        self,
        function_id: str,
        name: str,
        alias: Alias | None,
        expected: Collection[str] | None,
        is_default: bool | None = None,
    ) -> Alias | None:
        async with self._changing:
            for _ in range(TRIES):
                known = self._rows.get(function_id, {}).get(name)
                self._check(function_id, name, alias, known, expected)
                stays = known is not None and known.is_default
                if is_default:
                    self._check_default(function_id, name)
                    if not stays and self.others.has_older_nodes():
                        raise older_node("knows no default alias")
                if alias is not None:
                    alias = msgspec.structs.replace(
                        alias,
                        is_default=stays if is_default is None else is_default,
                        revision=1 if known is None else known.revision + 1,
                        updated_at=int(self._clock.unix()),
                    )
                try:
                    await self._store.save(function_id, name, alias, known)
                except Outdated:  # another node was faster
                    await self._load([function_id])
                    continue
                except StoreUnavailable:
                    await self._reload_quietly(function_id)  # the change may have been stored
                    raise
                self._put_one(function_id, name, alias)
                return alias
        raise Outdated

    async def _reload_quietly(self, function_id: str) -> None:
        try:
            await self._load([function_id])
        except StoreUnavailable:
            return

    def _check(
        self,
        function_id: str,
        name: str,
        alias: Alias | None,
        known: Alias | None,
        expected: Collection[str] | None,
    ) -> None:
        """Raises an error with the reason if the change is refused."""
        if expected is not None and (known is None or known.fingerprint() not in expected):
            raise PreconditionFailed(
                f"the alias {name} was changed since it was read",
                hint="GET it again, and repeat the change on its current state",
            )
        if alias is None and known is None:
            raise NotFound(f"the function has no alias {name}")
        if known is None and len(self._rows.get(function_id, {})) >= ALIASES_MAX:
            raise Conflict(f"a function has at most {ALIASES_MAX} aliases")

    def _check_default(self, function_id: str, name: str) -> None:
        """Raises `Conflict` if another alias is the default."""
        other = self.defaults.get(function_id)
        if other is not None and other.name != name:
            raise Conflict(
                f"the default alias of the function is {other.name}, and there is one at most",
                hint=f"set {other.name} with default false first",
            )

    async def _stored(self, only: Collection[str] | None) -> Mapping[str, dict[str, Alias]]:
        found: dict[str, dict[str, Alias]] = {}
        for function_id, alias in await self._store.load(only):
            found.setdefault(function_id, {})[alias.name] = alias
        return found

    def moved(self, function_id: str, moved: Mapping[str, Alias]) -> None:
        """Apply the aliases that a stored change of the function has moved."""
        for name, alias in moved.items():
            self._put_one(function_id, name, alias)

    def _put_one(self, function_id: str, name: str, alias: Alias | None) -> None:
        if self._catalog.known(function_id) is None:
            return  # the function was deleted at the same moment
        others = {key: one for key, one in self._rows.get(function_id, {}).items() if key != name}
        self._put(function_id, (others if alias is None else others | {name: alias}) or None)

    def _changed(
        self, key: str, before: dict[str, Alias] | None, after: dict[str, Alias] | None
    ) -> None:
        before, after = before or {}, after or {}
        self.defaults.pop(key, None)
        for alias in after.values():
            if alias.is_default:
                self.defaults[key] = alias
        for hear in self.on_change.hearers:
            hear(key)
        entry = self._catalog.known(key)
        for name, alias in after.items():
            known = before.get(name)
            if known is None or known.also is None or not alias.rolled_back or entry is None:
                continue
            for hear_of in self.on_rolled_back.hearers:
                hear_of(entry.function.tenant_id, key, known, alias)
