"""`quiltfn api-keys …`: create, list and revoke API keys over HTTP; needs scope admin."""

from typing import Annotated, Any

from quiltfn.cli import show
from quiltfn.cli.options import FieldsOf, seconds_of
from quiltfn.cli.parsing import Argument, Group, Option
from quiltfn.cli.session import Connection
from quiltfn.cli.show import TableOf
from quiltfn.sdk import CreatedKey, Key
from quiltfn.wire import NewKey

app = Group(
    name="api-keys",
    help="Create, list and revoke API keys of a server, from anywhere; needs scope admin.",
)


@app.command()
def create(
    *,
    fields: Annotated[dict[str, Any], FieldsOf(NewKey, leave_out=["expires_seconds"])],
    expires: Annotated[
        str | None, Option(metavar="AGE", help="Lifetime, such as 12h or 30d (default: unlimited).")
    ] = None,
    connection: Connection,
) -> None:
    """Create a key and print it. It is shown only once, and works at once."""
    if expires is not None:
        fields["expires_seconds"] = seconds_of("--expires", expires)
    with connection.session() as at:
        at.show(at.client.keys.create(**fields), _created)


@app.command("list")
def list_keys(connection: Connection) -> None:
    """List the tenant's keys, without their secrets; an operator sees all."""
    with connection.session() as at:
        at.show(at.client.keys.list(), _table)


@app.command()
def revoke(
    key_id: Annotated[str, Argument(help="Key id from `list`.")], connection: Connection
) -> None:
    """Permanently revoke a key, within a second. Streams end; other running requests continue."""
    with connection.session() as at:
        at.client.keys.revoke(key_id)
        at.say(f"revoked {key_id}", revoked=True, id=key_id)


def _created(made: CreatedKey) -> None:
    show.say(made.key)
    ends = "never expires" if made.expires_at is None else f"until {show.when(made.expires_at)}"
    show.note(f"key {made.id}: tenant {made.tenant_id}, scope {made.scope}, {ends}")


_table = TableOf[list[Key], Key](
    list,
    {
        "ID": lambda key: key.id,
        "TENANT": lambda key: key.tenant_id,
        "SCOPE": lambda key: key.scope,
        "PREFIX": lambda key: key.prefix,
        "CREATED": lambda key: show.when(key.created_at),
        "EXPIRES": lambda key: "never" if key.expires_at is None else show.when(key.expires_at),
        "REVOKED": lambda key: show.when(key.revoked_at),
        "LABEL": lambda key: key.label or "-",
    },
    empty="no keys: the server requires none until the first one is created",
    drop=("CREATED", "PREFIX", "TENANT"),
)
