"""`quiltfn audit`: changes, and refused changes, with their actors."""

from typing import Annotated

from msgspec import Struct
from msgspec.structs import asdict

from quiltfn.cli import tables
from quiltfn.cli.moments import Period
from quiltfn.cli.options import Paging
from quiltfn.cli.parsing import Option
from quiltfn.cli.session import Connection


class AuditOptions(Struct, frozen=True, kw_only=True):
    """Which entries are listed."""

    action: Annotated[
        str | None, Option(help="Action, such as function.create, or kind of action: function.")
    ] = None
    credential: Annotated[
        str | None, Option(metavar="ID", help="Actions of this key or token.")
    ] = None
    object_id: Annotated[
        str | None, Option(("--object",), metavar="ID", help="Actions on this object.")
    ] = None


def audit(wanted: AuditOptions, period: Period, paging: Paging, connection: Connection) -> None:
    """List changes and refused changes with their actors, newest first; needs scope admin."""
    since, until = period.bounds()
    with connection.session() as at:
        found = at.client.system.list_audit_entries(
            **asdict(wanted), since=since, until=until, **paging.fields()
        )
        at.show(found.first(), tables.audit)
