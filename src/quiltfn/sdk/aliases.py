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
    """One alias of a function. Raises NotFoundError if no alias has this name."""
    return on(function, f"/aliases/{segment(name)}", lambda path: get(path, Alias))


def get_alias_with_etag(function: str, name: str) -> Flow[tuple[Alias, str]]:
    """One alias of a function, and the ETag of its current state, for `set_alias`."""
    return on(function, f"/aliases/{segment(name)}", lambda path: get_with_etag(path, Alias))


class AliasChange(Struct, frozen=True):
    """The parameters of `set_alias`."""

    name: str
    version: int
    also: AliasShare | None = None
    rollback_on: RollbackRule | None = None
    default: bool | None = None
    etag: str | None = None


@with_name_and_fields_of(AliasChange)
def set_alias(function: str, change: AliasChange) -> Flow[Alias]:
    """Create an alias of a function, or replace all its fields. Invoke the function as NAME@ALIAS.
    `also`: another version that gets a share of the invocations. `rollback_on`: when that version
    is rolled back automatically. `default`: whether invocations without version or alias use this
    alias; None: no change. `etag`: only replace the alias if it still has this ETag; otherwise
    raise ConflictError.
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
    """The methods of both clients for aliases of functions."""

    list_aliases = Method(list_aliases)
    get_alias = Method(get_alias)
    get_alias_with_etag = Method(get_alias_with_etag)
    set_alias = Method(set_alias)
    delete_alias = Method(delete_alias)
