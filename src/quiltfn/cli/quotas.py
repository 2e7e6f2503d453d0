"""`quiltfn quota …`: the limits of tenants, for operators."""

from typing import Annotated, Any

from quiltfn.cli import show, tables
from quiltfn.cli.options import FieldsOf
from quiltfn.cli.parsing import Argument, BadParameter, Group
from quiltfn.cli.session import Connection
from quiltfn.wire import NewQuota

app = Group(
    name="quota",
    help="Show and set the limits of a tenant; needs an operator's key.",
)

Tenant = Annotated[str, Argument(help="The tenant.")]


@app.command("show")
def show_quota(tenant: Tenant, connection: Connection) -> None:
    """Show the limits of a tenant, and how much of them it has used."""
    with connection.session() as at:
        at.show(at.client.quotas.get(tenant), tables.quota)


@app.command("set")
def set_quota(
    tenant: Tenant,
    *,
    fields: Annotated[dict[str, Any], FieldsOf(NewQuota)],
    connection: Connection,
) -> None:
    """Set the limits of a tenant, as a whole: what is not named is as the server has it."""
    if not fields:
        raise BadParameter(
            "name at least one limit; --help lists them", f"quiltfn quota remove {tenant}"
        )
    with connection.session() as at:
        at.show(at.client.quotas.set(tenant, **fields), tables.quota)


@app.command()
def remove(tenant: Tenant, connection: Connection) -> None:
    """Go back to the limits that the server has for every tenant."""
    with connection.session() as at:
        done = {"removed": True, "tenant_id": tenant}
        gone = at.client.quotas.delete(tenant)
        at.show(gone, lambda _: show.say(f"{tenant} has the server's limits"), done)
