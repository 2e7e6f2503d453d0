"""Schemas of the aliases of a function."""

from typing import Annotated

from msgspec import Struct

from quiltfn.wire.constraints import Between, Pattern
from quiltfn.wire.fields import about
from quiltfn.wire.numbers import UnixSeconds, VersionNumber

__all__ = ["Alias", "AliasList", "AliasShare", "NewAlias", "RollbackRule"]

ALIAS = "[A-Za-z][A-Za-z0-9_-]{0,31}"
ALIAS_RULE = "1 to 32 letters, digits, dashes or underscores, with a letter first"

AliasName = Annotated[
    str,
    about(ALIAS_RULE, "live", Pattern(ALIAS, ALIAS_RULE)),
]
Weight = Annotated[
    float,
    about("its share of the invocations, from 0.001 to 0.999", 0.1, Between(0.001, 0.999)),
]


class AliasShare(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Another version that gets a share of the alias's invocations."""

    version: VersionNumber
    weight: Weight


Also = Annotated[
    AliasShare,
    about(
        "another version that gets a share of the invocations, chosen at random for each",
        {"version": 2, "weight": 0.1},
    ),
]


ErrorRate = Annotated[
    float,
    about(
        "maximum error rate, from 0.001 to 0.999",
        0.05,
        Between(0.001, 0.999),
    ),
]
P99Ms = Annotated[
    int,
    about("maximum 99th percentile of its latency", 500, Between(1, 86_400_000), unit="ms"),
]
WithinS = Annotated[
    int,
    about(
        "monitoring period after the alias was set, from 1 to 604800 seconds",
        300,
        Between(1, 604_800),
        unit="s",
    ),
]


class RollbackRule(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """When the other version is rolled back. The rule needs error_rate, p99_ms, or both."""

    error_rate: ErrorRate | None = None
    p99_ms: P99Ms | None = None
    within_s: WithinS = 300


RollbackOn = Annotated[
    RollbackRule,
    about(
        "conditions under which the other version is rolled back automatically, judged by its "
        "own invocations",
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
        "whether invocations that name no version and no alias use this one",
        False,
        null="unchanged",
    ),
]


class NewAlias(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True):
    """The version or versions that invocations of an alias run on."""

    version: VersionNumber
    also: Also | None = None
    rollback_on: RollbackOn | None = None
    default: IsDefault | None = None


class Alias(Struct, kw_only=True, frozen=True):
    """A name for a version of a function, or for two that share its invocations."""

    name: AliasName
    version: VersionNumber
    also: AliasShare | None
    rollback_on: RollbackRule | None = None
    rolled_back: RolledBack | None = None
    default: IsDefault = False
    updated_at: UnixSeconds


class AliasList(Struct, kw_only=True, frozen=True):
    """The aliases of a function, sorted by name."""

    aliases: list[Alias]
