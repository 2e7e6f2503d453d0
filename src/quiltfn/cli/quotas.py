"""`quiltfn quota …`: shows and sets the limits of tenants, for operators."""

from typing import Annotated, Any

from quiltfn.cli import show, tables
from quiltfn.cli.options import FieldsOf
from quiltfn.cli.parsing import Argument, BadParameter, Group
from quiltfn.cli.session import Connection
from quiltfn.wire import NewQuota, Quota

app = Group(
    name="quota", help="Show and set the limits of tenants; setting needs an operator's key."
)

Tenant = Annotated[str, Argument(help="Tenant.")]


@app.command("show")
def show_quota(
    tenant: Annotated[str | None, Argument(help="Tenant (default: your own).")] = None,
    *,
    connection: Connection,
) -> None:
    """Show a tenant's limits and usage. Other tenants need an operator's key."""
    with connection.session() as at:
        name = tenant or at.client.system.whoami().tenant_id
        _note_unknown(at.show(at.client.quotas.get(name), tables.quota))


@app.command("set")
def set_quota(
    tenant: Tenant,
    *,
    fields: Annotated[dict[str, Any], FieldsOf(NewQuota)],
    connection: Connection,
) -> None:
    """Set limits of a tenant. It keeps its other limits; `quota remove` removes them all."""
    if not fields:
        raise BadParameter(
            "name at least one limit; --help lists them", f"quiltfn quota remove {tenant}"
        )
    with connection.session() as at:
        now = at.client.quotas.get(tenant)
        kept = {name: getattr(now, name) for name in now.own}
        made = at.show(at.client.quotas.set(tenant, **kept | fields), tables.quota)
        _note_unknown(made)


@app.command()
def remove(tenant: Tenant, connection: Connection) -> None:
    """Reset a tenant to the server's default limits."""
    with connection.session() as at:
        at.client.quotas.delete(tenant)
        at.say(f"{tenant} has the server's limits", removed=True, tenant_id=tenant)


def _note_unknown(quota: Quota) -> None:
    if not quota.known:
        none = "no key, no function and no invocations yet"
        show.note(f"{quota.tenant_id} has {none}: check the name")
