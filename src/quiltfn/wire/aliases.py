"""The aliases of a function, as they are set and shown."""

from typing import Annotated

from msgspec import Struct

from quiltfn.wire.constraints import Between, Pattern
from quiltfn.wire.fields import about
from quiltfn.wire.numbers import UnixSeconds, VersionNumber

ALIAS = "[A-Za-z][A-Za-z0-9_-]{0,31}"
ALIAS_RULE = "1 to 32 letters, digits, dashes or underscores, with a letter first"

AliasName = Annotated[
    str,
    about(ALIAS_RULE, "live", Pattern(ALIAS, ALIAS_RULE)),
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


ErrorRate = Annotated[
    float,
    about(
        "the part of its calls that may fail, from 0.001 to 0.999; or null",
        0.05,
        Between(0.001, 0.999),
    ),
]
P99Ms = Annotated[
    int,
    about(
        "99 of 100 of its calls end within that; or null", 500, Between(1, 86_400_000), unit="ms"
    ),
]
WithinS = Annotated[
    int,
    about(
        "for how long after it was set the alias is watched, from 1 to 604800 seconds",
        300,
        Between(1, 604_800),
        unit="s",
    ),
]


class RollbackRule(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """When the other version is rolled back. It needs error_rate, p99_ms, or both."""

    error_rate: ErrorRate | None = None
    p99_ms: P99Ms | None = None
    within_s: WithinS = 300


RollbackOn = Annotated[
    RollbackRule,
    about(
        "when the other version is rolled back by itself, judged by its own calls; or null",
        {"error_rate": 0.05, "within_s": 300},
    ),
]
RolledBack = Annotated[
    str,
    about(
        "why the other version was rolled back, until the alias is set again; or null",
        "version 2: 7 of 9 attempts failed, where 5 % may",
    ),
]


IsDefault = Annotated[
    bool,
    about(
        "whether calls that name no version and no alias run by this one; null leaves it as it is",
        False,
    ),
]


class NewAlias(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True):
    """What calls by an alias run on."""

    version: VersionNumber
    also: Also | None = None
    rollback_on: RollbackOn | None = None
    default: IsDefault | None = None


class Alias(Struct, kw_only=True, frozen=True):
    """A name for a version of a function, or for two between which calls are split."""

    name: AliasName
    version: VersionNumber
    also: AliasShare | None
    rollback_on: RollbackRule | None = None
    rolled_back: RolledBack | None = None
    default: IsDefault = False
    updated_at: UnixSeconds


class AliasList(Struct, kw_only=True, frozen=True):
    """The aliases of a function, by name."""

    aliases: list[Alias]
