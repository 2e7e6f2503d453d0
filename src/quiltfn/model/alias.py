"""An alias: a name for one version of a function, or for two that share its invocations."""

import hashlib

import msgspec

from quiltfn.model.canary import RollbackRule

# The maximum number of aliases of a function.
ALIASES_MAX = 20


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A second version that gets some of the invocations. `weight`: its share, from 0 to 1."""

    version: int
    weight: float


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """The versions that invocations by this name run on. `rollback_on`: the rule by which `also` is
    rolled back automatically; `rolled_back`: why that happened, until the alias is set again.
    `is_default`: invocations that name neither version nor alias use this alias, and an update or
    rollback of the function moves it. `revision`: how often it was changed; `updated_at`: Unix
    seconds.
    """

    name: str
    version: int
    also: Share | None = None
    rollback_on: RollbackRule | None = None
    rolled_back: str | None = None
    is_default: bool = False
    revision: int = 0
    updated_at: int = 0

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that invocations by this name may run on."""
        return (self.version,) if self.also is None else (self.version, self.also.version)

    def fingerprint(self) -> str:
        """A digest that differs after every change."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]

    def without_canary(self, why: str) -> "Alias":
        """The alias after its canary was rolled back. `why`: the reason."""
        return msgspec.structs.replace(self, also=None, rollback_on=None, rolled_back=why)

    def pointing_to(self, version: int, why: str | None = None) -> "Alias":
        """The alias with all invocations on one version. `why`: the reason, after a rollback."""
        return msgspec.structs.replace(
            self, version=version, also=None, rollback_on=None, rolled_back=why
        )

    def after_update(self, version: int, same_code: int | None = None) -> "Alias":
        """The alias after an update: the default alias moves to the new version. `same_code`: the
        previous version, if the new one has the same code. The default alias then stays as it is if
        it sends some invocations to other versions: those invocations are not meant to run this
        code.
        """
        is_elsewhere = same_code is not None and self.versions != (same_code,)
        return self.pointing_to(version) if self.is_default and not is_elsewhere else self

    def after_rollback(self, before: int, version: int, *, moves_default: bool = True) -> "Alias":
        """The alias after a rollback of the function from version `before` to `version`: it sends
        no more invocations to `before`, even if that was one of two versions. If `before` and
        `version` are the same, only the default alias changes: it sends all invocations to
        `version`. With `moves_default` False the default alias stays as it is.
        """
        if self.is_default and not moves_default:
            return self
        is_there = self.versions == (version,)
        is_left = before != version and before in self.versions
        if is_there or not (self.is_default or is_left):
            return self
        if before == version:
            return self.pointing_to(version)
        kept = self.version if not self.is_default and self.version != before else version
        return self.pointing_to(kept, f"version {before} was rolled back to version {version}")

    def choose(self, dice: float) -> int:
        """The version for one invocation. `dice`: a random number from [0, 1)."""
        if self.also is not None and dice < self.also.weight:
            return self.also.version
        return self.version
