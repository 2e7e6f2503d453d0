"""The aliases of a function, as they are set and shown."""

from typing import Annotated

from msgspec import Struct

from quiltfn.wire.constraints import Between, Pattern
from quiltfn.wire.fields import about
from quiltfn.wire.functions import UnixSeconds, VersionNumber

ALIAS = "[A-Za-z][A-Za-z0-9_-]{0,31}"

AliasName = Annotated[
    str,
    about(
        "1 to 32 letters, digits, dashes or underscores, with a letter first",
        "live",
        Pattern(ALIAS, "1 to 32 letters, digits, dashes or underscores, with a letter first"),
    ),
]
Weight = Annotated[
    float,
    about("the part of the calls that it gets, from 0.001 to 0.999", 0.1, Between(0.001, 0.999)),
]


class AliasShare(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Another version that gets some of the calls by this alias."""

    version: VersionNumber
    weight: Weight


Also = Annotated[
    AliasShare,
    about(
        "another version that gets some of the calls, chosen at random for each; or null",
        {"version": 2, "weight": 0.1},
    ),
]


class NewAlias(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What calls by an alias run on."""

    version: VersionNumber
    also: Also | None = None


class Alias(Struct, kw_only=True, frozen=True):
    """A name for a version of a function, or for two between which calls are split."""

    name: AliasName
    version: VersionNumber
    also: AliasShare | None
    updated_at: UnixSeconds


class AliasList(Struct, kw_only=True, frozen=True):
    """The aliases of a function, by name."""

    aliases: list[Alias]
