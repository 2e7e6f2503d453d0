"""`quiltfn pool-stats`, `health` and `info`: questions about the server."""

from quiltfn.cli import tables
from quiltfn.cli.parsing import Exit
from quiltfn.cli.session import Connection


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


def info(connection: Connection) -> None:
    """Show the server's version, node, protections and limits."""
    with connection.session() as at:
        at.show(at.client.system.get_info(), tables.info)
