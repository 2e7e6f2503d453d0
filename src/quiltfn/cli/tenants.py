"""`quiltfn tenants …`: lists, disables and enables tenants, for operators."""

from typing import Annotated

from quiltfn.cli import show
from quiltfn.cli.options import Paging, Yes
from quiltfn.cli.parsing import Argument, Group
from quiltfn.cli.session import Connection
from quiltfn.cli.show import TableOf
from quiltfn.wire import Tenant, TenantPage

app = Group(name="tenants", help="List, disable and enable tenants; needs an operator's key.")

Name = Annotated[str, Argument(help="Tenant.")]


@app.command("list")
def list_tenants(paging: Paging, connection: Connection) -> None:
    """List tenants by name: those that have a function, a valid key, a quota, or invocations."""
    with connection.session() as at:
        at.show(at.client.tenants.list(**paging.fields()).first(), _table)


@app.command()
def disable(
    tenant: Name,
    yes: Yes = False,
    *,
    connection: Connection,
) -> None:
    """Disable a tenant until `enable`: refuse its keys and invocations, and end its instances.

    Running invocations end. Queued ones wait, ticks of schedules are skipped, and nothing is sent
    to destinations. Functions, keys and records stay.
    """
    with connection.session() as at:
        if not yes:
            own = tenant == at.client.system.whoami().tenant_id
            whose = "your own tenant " if own else "tenant "
            show.ask(f"Disable {whose}{tenant}? All its invocations end, and its URLs fail.")
        at.show(at.client.tenants.disable(tenant), _say_state)


@app.command()
def enable(tenant: Name, connection: Connection) -> None:
    """Enable a disabled tenant."""
    with connection.session() as at:
        at.show(at.client.tenants.enable(tenant), _say_state)


def _say_state(tenant: Tenant) -> None:
    show.say(f"{tenant.tenant_id} is {_state(tenant)}")


def _state(tenant: Tenant) -> str:
    return "disabled" if tenant.disabled else "enabled"


_table = TableOf[TenantPage, Tenant](
    lambda page: page.tenants,
    {
        "TENANT": lambda tenant: tenant.tenant_id,
        "STATE": _state,
        "FUNCTIONS": lambda tenant: tenant.functions,
        "KEYS": lambda tenant: tenant.valid_keys,
        "IN FLIGHT": lambda tenant: tenant.calls_in_flight,
    },
)
