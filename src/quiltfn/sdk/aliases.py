"""Aliases of functions, as part of `client.functions`."""

from msgspec import Struct

from quiltfn.sdk.methods import Method, with_name_and_fields_of
from quiltfn.sdk.named_function import on
from quiltfn.sdk.request import Flow, delete, get, get_with_etag, put, segment
from quiltfn.wire import Alias, AliasList, AliasShare, NewAlias, RollbackRule


def list_aliases(function: str) -> Flow[AliasList]:
    """The aliases of a function, by name."""
    return on(function, "/aliases", lambda path: get(path, AliasList))


def get_alias(function: str, name: str) -> Flow[Alias]:
    """One alias of a function. Raises NotFoundError if there is none of this name."""
    return on(function, f"/aliases/{segment(name)}", lambda path: get(path, Alias))


def get_alias_with_etag(function: str, name: str) -> Flow[tuple[Alias, str]]:
    """One alias of a function, and the ETag of what it is now: see `set_alias`."""
    return on(function, f"/aliases/{segment(name)}", lambda path: get_with_etag(path, Alias))


class AliasChange(Struct, frozen=True):
    """What `set_alias` is given."""

    name: str
    version: int
    also: AliasShare | None = None
    rollback_on: RollbackRule | None = None
    default: bool | None = None
    etag: str | None = None


@with_name_and_fields_of(AliasChange)
def set_alias(function: str, change: AliasChange) -> Flow[Alias]:
    """Make an alias of a function, or replace it as a whole. `also`: another version that gets some
    of the calls. `rollback_on`: when that is taken back by itself. `default`: whether calls that
    name no version and no alias run by this one; None keeps it. Call it as NAME@ALIAS. `etag`:
    only if the alias still has this one; raises ConflictError if it was changed meanwhile.
    """
    alias = NewAlias(
        version=change.version,
        also=change.also,
        rollback_on=change.rollback_on,
        default=change.default,
    )
    below = f"/aliases/{segment(change.name)}"
    return on(function, below, lambda path: put(path, Alias, alias, change.etag))


def delete_alias(function: str, name: str) -> Flow[None]:
    """Remove an alias of a function."""
    return on(function, f"/aliases/{segment(name)}", delete)


class AliasMethods:
    """What both clients can do with aliases of functions."""

    list_aliases = Method(list_aliases)
    get_alias = Method(get_alias)
    get_alias_with_etag = Method(get_alias_with_etag)
    set_alias = Method(set_alias)
    delete_alias = Method(delete_alias)
