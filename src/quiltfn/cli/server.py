"""`quiltfn whoami`, `instances`, `pool-stats`, `health` and `info`: questions about the server."""

from typing import Annotated

from quiltfn.cli import tables
from quiltfn.cli.options import Limit
from quiltfn.cli.parsing import Exit, Option
from quiltfn.cli.session import Connection


def whoami(connection: Connection) -> None:
    """Show whose key it is, what it may do, and what the server offers."""
    with connection.session() as at:
        at.show(at.client.system.whoami(), tables.whoami)


def instances(
    function: Annotated[
        str | None,
        Option(metavar="NAME_OR_ID", help="Only instances of this function.", completes="function"),
    ] = None,
    limit: Limit = None,
    *,
    connection: Connection,
) -> None:
    """List the instances of all tenants on all nodes and what they share; operators only."""
    with connection.session(function) as at:
        found = at.client.system.list_instances(function, most=limit)
        at.show(found, tables.instances)


def pool_stats(connection: Connection) -> None:
    """Count your instances by state."""
    with connection.session() as at:
        at.show(at.client.functions.get_pool_stats(), tables.pool_stats)


def health(connection: Connection) -> None:
    """Show whether the server is ready, and why not. The exit code is 1 if it is not."""
    with connection.session() as at:
        report = at.show(at.client.system.get_health(), tables.health)
    if not report.ready:
        raise Exit(1)


def info(
    findings: Annotated[
        bool,
        Option(("--findings",), help="What doctor finds on the server's machine; operators only."),
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
