"""`quiltfn quota …`: the limits of tenants, which operators set."""

from typing import Annotated, Any

from quiltfn.cli import show, tables
from quiltfn.cli.options import FieldsOf
from quiltfn.cli.parsing import Argument, BadParameter, Group
from quiltfn.cli.session import Connection
from quiltfn.wire import NewQuota

app = Group(
    name="quota",
    help="Show the limits of a tenant, and set them with an operator's key.",
)

Tenant = Annotated[str, Argument(help="The tenant.")]


@app.command("show")
def show_quota(
    tenant: Annotated[str | None, Argument(help="The tenant; without it, your own.")] = None,
    *,
    connection: Connection,
) -> None:
    """Show the limits of a tenant, and how much of them it has used. Another tenant's need an
    operator's key.
    """
    with connection.session() as at:
        name = tenant or at.client.system.whoami().tenant_id
        at.show(at.client.quotas.get(name), tables.quota)


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
        made = at.show(at.client.quotas.set(tenant, **fields), tables.quota)
        if not made.known:
            show.note(f"{tenant} has no key, no function and no calls yet: is the name right?")


@app.command()
def remove(tenant: Tenant, connection: Connection) -> None:
    """Go back to the limits that the server has for every tenant."""
    with connection.session() as at:
        done = {"removed": True, "tenant_id": tenant}
        gone = at.client.quotas.delete(tenant)
        at.show(gone, lambda _: show.say(f"{tenant} has the server's limits"), done)
