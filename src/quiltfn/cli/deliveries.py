"""`quiltfn deliveries …`: deliveries to the destinations of a function's policy."""

from typing import Annotated

from quiltfn.cli import scope, show, tables
from quiltfn.cli.options import Paging
from quiltfn.cli.parsing import Argument, Group, Option
from quiltfn.cli.scope import AllFunctions, NameOrAll
from quiltfn.cli.session import Connection, NameOrId
from quiltfn.sdk import Delivery

app = Group(name="deliveries", help="List deliveries to destinations, and retry them.")


@app.command("list")
def list_deliveries(
    name_or_id: NameOrAll = None,
    status: Annotated[
        str | None, Option(help="Delivery status: waiting, delivered or failed.")
    ] = None,
    *,
    paging: Paging,
    all_functions: AllFunctions = False,
    connection: Connection,
) -> None:
    """List deliveries, newest first."""
    label = scope.label(name_or_id, all_functions=all_functions)
    with connection.session(name_or_id) as at:
        found = at.client.functions.list_deliveries(
            name_or_id, cluster_id=label, status=status, **paging.fields()
        )
        at.show(found.first(), tables.deliveries if name_or_id else tables.all_deliveries)


@app.command()
def retry(
    name_or_id: NameOrId,
    delivery_id: Annotated[str, Argument(help="Delivery id.")],
    connection: Connection,
) -> None:
    """Retry a failed or waiting delivery at once."""

    def report(delivery: Delivery) -> None:
        show.say(f"{delivery.delivery_id} is sent again, with retries for up to a day")
        show.note(f"see the outcome with: quiltfn deliveries list {name_or_id}")

    with connection.session(name_or_id) as at:
        at.show(at.client.functions.retry_delivery(name_or_id, delivery_id), report)
