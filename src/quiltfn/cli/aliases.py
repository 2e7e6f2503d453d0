"""`quiltfn aliases …`: names for versions of a function."""

import re
from typing import Annotated

from quiltfn.cli import show
from quiltfn.cli.parsing import Argument, BadParameter, Group, Option
from quiltfn.cli.session import Connection, NameOrId
from quiltfn.wire import Alias, AliasList, AliasShare

app = Group(name="aliases", help="Name versions of a function, and split calls between two.")
AliasName = Annotated[str, Argument(help="The alias, such as live.")]
SPLIT = re.compile(r"([0-9]{1,9})=([0-9]{1,2}(?:\.[0-9]{1,2})?)%")


@app.command("list")
def list_aliases(name_or_id: NameOrId, connection: Connection) -> None:
    """List the aliases of a function."""
    with connection.session(name_or_id) as at:
        at.show(at.client.functions.list_aliases(name_or_id), _table)


@app.command("set")
def set_alias(
    name_or_id: NameOrId,
    alias: AliasName,
    version: Annotated[int, Argument(help="The version that calls by it run on.")],
    *,
    also: Annotated[
        str | None,
        Option(metavar="VERSION=PERCENT", help="Another one that gets some of them, as 4=10%."),
    ] = None,
    connection: Connection,
) -> None:
    """Make an alias of a function, or replace it. Call it with: quiltfn invoke NAME@ALIAS"""
    share = None if also is None else _share(also)
    with connection.session(name_or_id) as at:
        at.show(at.client.functions.set_alias(name_or_id, alias, version, also=share), _told)


@app.command("remove")
def remove_alias(name_or_id: NameOrId, alias: AliasName, connection: Connection) -> None:
    """Remove an alias of a function."""
    with connection.session(name_or_id) as at:
        gone = at.client.functions.delete_alias(name_or_id, alias)
        at.show(gone, lambda _: show.say(f"{alias} is removed"), {"deleted": True})


def _share(text: str) -> AliasShare:
    found = SPLIT.fullmatch(text)
    if found is None:
        raise BadParameter(f"--also must be VERSION=PERCENT, such as 4=10%, not {text!r}")
    return AliasShare(version=int(found[1]), weight=round(float(found[2]) / 100, 4))


def _table(found: AliasList) -> None:
    rows = [(one.name, *_cells(one), show.when(one.updated_at)) for one in found.aliases]
    show.table(("alias", "version", "also", "changed"), rows)


def _told(one: Alias) -> None:
    version, also = _cells(one)
    also = also and f", and {also} of the calls"
    show.say(f"{one.name} is version {version}{also}")


def _cells(one: Alias) -> tuple[str, str]:
    also = one.also
    return str(one.version), "" if also is None else f"{also.version}={also.weight * 100:g}%"
