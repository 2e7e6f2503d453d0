"""The routes for aliases of functions, and the version that an invocation names."""

import re
from typing import Protocol

import msgspec

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http import parse
from quiltfn.api.http.etags import if_match
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import AnyContext, RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import FUNCTION, IF_MATCH, READ, WRITE
from quiltfn.functions.aliases import Aliases
from quiltfn.functions.catalog import Entry
from quiltfn.functions.lifecycle import Lifecycle
from quiltfn.model.alias import Alias, Share
from quiltfn.model.canary import RollbackRule
from quiltfn.model.errors import Forbidden, Unprocessable
from quiltfn.model.version import Version
from quiltfn.wire.aliases import ALIAS, ALIAS_RULE
from quiltfn.wire.numbers import VERSION_NUMBER_MAX


class AliasServices(RouteServices, Protocol):
    """The services for the routes of aliases, and for invocations that name a version."""

    aliases: Aliases
    lifecycle: Lifecycle


async def list_aliases(context: RequestContext[AliasServices]) -> Response:
    """List the aliases of a function, by name."""
    found = context.services.aliases.of(context.entry().function.id)
    return json_response(wire.AliasList(aliases=[shapes.alias(one) for one in found]))


async def get_alias(context: RequestContext[AliasServices]) -> Response:
    """Show an alias. To avoid overwriting another change, send its ETag as If-Match with yours."""
    return _shown(context.services.aliases.get(context.entry().function.id, _name(context)))


async def set_alias(context: RequestContext[AliasServices]) -> Response:
    """Create or replace an alias. It applies to later invocations: by ?alias=NAME with an invoke,
    and below /fn/<name>@<alias>. An invocation by the alias runs its version, or the other one with
    that version's weight. rollback_on rolls the other version back automatically if its own
    invocations fail or are slow; rolled_back then says why. Invocations that name no version and no
    alias use the default alias: those by the function's name or URL, queued ones, and those of
    schedules. An update or rollback of the function usually moves the default alias to the version
    that becomes current (see its parameter default_alias).
    """
    body, name = context.body, _name(context)
    if not re.fullmatch(ALIAS, name):
        raise Unprocessable.field("alias", ALIAS_RULE, name, "live")
    if body.also is not None and body.also.version == body.version:
        raise Unprocessable.field("also.version", "another version than version", body.version)
    also = body.also and Share(version=body.also.version, weight=body.also.weight)
    rule = _rule(body)
    alias = Alias(name=name, version=body.version, also=also, rollback_on=rule)
    services = context.services
    entry, expected = context.entry(), if_match(context)
    return _shown(await services.aliases.set(entry, alias, expected, body.default))


async def delete_alias(context: RequestContext[AliasServices]) -> Response:
    """Remove an alias. Running invocations continue."""
    await context.services.aliases.remove(context.entry(), _name(context), if_match(context))
    return Response(status=204)


def _rule(body: wire.NewAlias) -> RollbackRule | None:
    """The conditions for rolling back the other version. Raises `Unprocessable`."""
    rule = body.rollback_on
    if rule is None:
        return None
    if body.also is None:
        raise Unprocessable.field("rollback_on", "null where also is null")
    if rule.error_rate is None and rule.p99_ms is None:
        raise Unprocessable.field("rollback_on.error_rate", "given, or p99_ms", None, 0.05)
    return RollbackRule(**msgspec.structs.asdict(rule))


def entry_called(context: AnyContext) -> Entry:
    """The function that an invocation's path names. In NAME@VERSION and NAME@ALIAS, the part after
    @ becomes a query parameter. Raises `NotFound` and `Unprocessable`.
    """
    name, at, reference = context.parameters["name"].partition("@")  # no name contains @
    if at and reference:
        field = "version" if reference.isascii() and reference.isdigit() else "alias"
        for given in ("version", "alias"):
            if given in context.query:
                expected = "left out where the path has @"
                raise Unprocessable.field(given, expected, context.query[given])
        context.parameters = {**context.parameters, "name": name}
        context.query = {**context.query, field: reference}
    return context.entry_by_name()


def names_version(context: RequestContext[AliasServices], entry: Entry) -> bool:
    """Whether the request invokes, or may invoke, a version other than the current one."""
    query = context.query
    is_named = "version" in query or "alias" in query
    return is_named or entry.function.id in context.services.aliases.defaults


async def version_named(context: RequestContext[AliasServices], entry: Entry) -> Version | None:
    """The version that the query names. None: the query names no version. Raises `Unprocessable`,
    `Forbidden` and `NotFound`.
    """
    query, services = context.query, context.services
    if "alias" in query:
        if "version" in query:
            raise Unprocessable.field("version", "left out where there is alias", query["version"])
        return await services.aliases.version(entry, query["alias"])
    if "version" not in query:
        return None
    number = parse.integer(query["version"], "version", 1, VERSION_NUMBER_MAX)
    may_call = context.sees_values or services.aliases.names(entry.function.id, number)
    if number != entry.version.number and not may_call:
        raise Forbidden(
            f"version {number} is neither the current one nor that of an alias, and only a key of "
            "scope write may call it"
        )
    return await services.lifecycle.version(entry, number)


def _name(context: RequestContext[AliasServices]) -> str:
    return context.parameters["alias"]


def _shown(alias: Alias) -> Response:
    return json_response(shapes.alias(alias), headers=[("etag", f'"{alias.fingerprint()}"')])


ROUTES = [
    Route("GET", FUNCTION + "/aliases", list_aliases, scope=READ, answer=wire.AliasList),
    Route("GET", FUNCTION + "/aliases/{alias}", get_alias, scope=READ, answer=wire.Alias),
    Route(
        "PUT",
        FUNCTION + "/aliases/{alias}",
        set_alias,
        scope=WRITE,
        answer=wire.Alias,
        body=wire.NewAlias,
        parameters=(IF_MATCH,),
        codes=("CONFLICT", "PRECONDITION_FAILED"),
        action="alias.set",
    ),
    Route(
        "DELETE",
        FUNCTION + "/aliases/{alias}",
        delete_alias,
        scope=WRITE,
        status=204,
        parameters=(IF_MATCH,),
        codes=("CONFLICT", "PRECONDITION_FAILED"),
        action="alias.delete",
    ),
]
