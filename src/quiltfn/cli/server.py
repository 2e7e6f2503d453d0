"""`quiltfn whoami`, `instances`, `pool-stats`, `health` and `info`: show the server's state."""

from typing import Annotated

from quiltfn.cli import tables
from quiltfn.cli.options import Limit
from quiltfn.cli.parsing import Exit, Option
from quiltfn.cli.session import Connection


def whoami(connection: Connection) -> None:
    """Show the key's tenant and scope, and the server's features."""
    with connection.session() as at:
        at.show(at.client.system.whoami(), tables.whoami)


def instances(
    function: Annotated[
        str | None,
        Option(metavar="NAME_OR_ID", help="Instances of this function only.", completes="function"),
    ] = None,
    limit: Limit = None,
    *,
    connection: Connection,
) -> None:
    """List the instances of all tenants on all nodes, and shared resources; operators only."""
    with connection.session(function) as at:
        found = at.client.system.list_instances(function, most=limit)
        at.show(found, tables.instances)


def pool_stats(connection: Connection) -> None:
    """Count your instances by state."""
    with connection.session() as at:
        at.show(at.client.functions.get_pool_stats(), tables.pool_stats)


def health(connection: Connection) -> None:
    """Show whether the server is ready, or why not. The exit code is 1 if it isn't."""
    with connection.session() as at:
        report = at.show(at.client.system.get_health(), tables.health)
    if not report.ready:
        raise Exit(1)


def info(
    findings: Annotated[
        bool,
        Option(
            ("--findings",),
            help="Show the doctor's system checks of the server's machine; operators only.",
        ),
    ] = False,
    *,
    connection: Connection,
) -> None:
    """Show the server's version, node, protections and limits."""
    with connection.session() as at:
        if findings:
            at.show(at.client.system.get_doctor_report(), tables.findings)
        else:
            at.show(at.client.system.get_info(), tables.info)
