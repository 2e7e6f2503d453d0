"""`quiltfn deliveries …`: what was sent to the destinations of a function's policy."""

from typing import Annotated

from quiltfn.cli import scope, show, tables
from quiltfn.cli.options import Cursor, Limit
from quiltfn.cli.parsing import Argument, Group, Option
from quiltfn.cli.scope import AllFunctions, NameOrAll
from quiltfn.cli.session import Connection, NameOrId
from quiltfn.sdk import Delivery

app = Group(
    name="deliveries",
    help="List what was sent to destinations, and send it again.",
)


@app.command("list")
def list_deliveries(
    name_or_id: NameOrAll = None,
    status: Annotated[
        str | None, Option(help="Only those that are waiting, delivered or failed.")
    ] = None,
    limit: Limit = None,
    cursor: Cursor = None,
    *,
    all_functions: AllFunctions = False,
    connection: Connection,
) -> None:
    """List deliveries, newest first. Without a name: the newest of all functions."""
    with connection.session(name_or_id) as at:
        functions = at.client.functions
        if name_or_id is not None:
            scope.check(name_or_id, all_functions)
            found = functions.list_deliveries(
                name_or_id, status=status, page_size=limit, cursor=cursor
            )
            at.show(found.first(), tables.deliveries)
            return
        names = scope.named(at, scope.functions(at, all_functions=all_functions), cursor)
        deliveries = scope.newest(
            names,
            lambda one, size: functions.list_deliveries(one, status=status, page_size=size),
            lambda one: one.delivery_id,
            limit,
        )
        at.print(deliveries, scope.encoded("deliveries", deliveries), tables.all_deliveries)


@app.command()
def retry(
    name_or_id: NameOrId,
    delivery_id: Annotated[str, Argument(help="The delivery's id.")],
    connection: Connection,
) -> None:
    """Send one that failed, or waits for its next try, at once."""

    def told(one: Delivery) -> None:
        show.say(f"{one.delivery_id} is sent again, for a day if need be")
        show.note(f"see what came of it with: quiltfn deliveries list {name_or_id}")

    with connection.session(name_or_id) as at:
        at.show(at.client.functions.retry_delivery(name_or_id, delivery_id), told)
