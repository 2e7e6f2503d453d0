"""An alias: a name for one version of a function, or for two between which calls are split."""

import hashlib

import msgspec

from quiltfn.model.canary import RollbackRule

# As many a function may have.
ALIASES_MAX = 20


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Another version that gets some of the calls. `weight`: from 0 to 1, how many."""

    version: int
    weight: float


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """What calls by this name run on. `rollback_on`: when it loses `also` by itself; `rolled_back`:
    why it did, until it is set again. `is_default`: calls that name no version and no alias run by
    this one, and an update or rollback of the function moves it. `revision`: how often it was
    changed; `updated_at`: Unix seconds.
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
        """The versions that calls by this name may run on."""
        return (self.version,) if self.also is None else (self.version, self.also.version)

    def fingerprint(self) -> str:
        """Another one after every change."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]

    def without_canary(self, why: str) -> "Alias":
        """What is left of it once the other version was taken back."""
        return msgspec.structs.replace(self, also=None, rollback_on=None, rolled_back=why)

    def pointing_to(self, version: int, why: str | None = None) -> "Alias":
        """With all calls on one version. `why`: it was rolled back to that."""
        return msgspec.structs.replace(
            self, version=version, also=None, rollback_on=None, rolled_back=why
        )

    def after_update(self, version: int, same_code: int | None = None) -> "Alias":
        """The alias after an update: calls that name nothing run on the new version. `same_code`:
        the version before, if the new one has its code; then an alias that sends calls to another
        version than that stays, since nobody has given them that code.
        """
        is_elsewhere = same_code is not None and self.versions != (same_code,)
        return self.pointing_to(version) if self.is_default and not is_elsewhere else self

    def after_rollback(self, before: int, version: int, *, moves_default: bool = True) -> "Alias":
        """The alias after a rollback of the function from version `before` to `version`: no
        invocation by it runs on `before` any more, and a split with that version ends. If both are
        the same, only what the default alias sends elsewhere ends. With `moves_default` False the
        default alias stays as it is.
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
        """The version of one call. `dice`: a random number from 0 to below 1."""
        if self.also is not None and dice < self.also.weight:
            return self.also.version
        return self.version
