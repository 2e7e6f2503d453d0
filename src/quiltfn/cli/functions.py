"""`quiltfn functions …`: make, look at, change, deploy and delete functions."""

import base64
import sys
from typing import Annotated

from msgspec import UNSET

from quiltfn.cli import show, tables
from quiltfn.cli.options import KEEPS, Changed, Fields
from quiltfn.cli.parsing import Argument, BadParameter, Exit, Group, Option
from quiltfn.cli.session import Connection, NameOrId
from quiltfn.sdk import Changes, Created, Function, NewFunction, Paused, Targets, requests

app = Group(
    name="functions",
    help="Make, look at, change, deploy and delete functions.",
)


@app.command()
def create(
    name: Annotated[str, Argument(help="The function's name.")],
    *,
    handler: Annotated[str, Option(help="What runs: for shell, a command line.")],
    fields: Fields,
    cluster_id: Annotated[str | None, Option(help="A label.")] = None,
    keep_state: Annotated[bool, Option(("--keep-state",), help=KEEPS)] = False,
    connection: Connection,
) -> None:
    """Create a function. It runs once it is deployed.

    What is not said: shell, 256 MB, 100 % of a core, 30 s, 0 to 5 instances, /tmp cleaned.
    """
    new = NewFunction(
        name=name,
        handler=handler,
        cluster_id=UNSET if cluster_id is None else cluster_id,
        cleanup_on_exit=False if keep_state else UNSET,
        **fields.wire(),
    )
    with connection.session() as at:
        at.answer(requests.create(new), _created)


@app.command()
def update(name_or_id: NameOrId, changed: Changed, fields: Fields, connection: Connection) -> None:
    """Change a function: a new version, with what is said changed and all else as it was.

    --env is the whole new environment: variables that are not named again are dropped.
    """
    changes = Changes(**changed.wire(fields))
    if changes == Changes():
        raise BadParameter("say what to change; --help lists what there is")
    with connection.session() as at:
        one = at.answer(requests.update(at.find(name_or_id).id, changes), _changed)
    _must_stand(one)


@app.command("list")
def list_functions(
    state: Annotated[str | None, Option(help="Only those in this state.")] = None,
    limit: Annotated[int | None, Option(least=1, help="At most so many.")] = None,
    cursor: Annotated[str | None, Option(help="Where the last list ended.")] = None,
    *,
    connection: Connection,
) -> None:
    """List functions."""
    with connection.session() as at:
        wanted = requests.list_functions(state=state, limit=limit, cursor=cursor)
        at.answer(wanted, show.functions)


@app.command()
def get(name_or_id: NameOrId, connection: Connection) -> None:
    """Show one function."""
    with connection.session() as at:
        at.answer_for(name_or_id, (requests.get, requests.get_by_name), show.function)


@app.command()
def deploy(name_or_id: NameOrId, connection: Connection) -> None:
    """Make a function ready to be called."""
    with connection.session() as at:
        one = at.answer(requests.deploy(at.find(name_or_id).id), _stands)
    if one.state == "error":
        raise Exit(1)


@app.command()
def pause(name_or_id: NameOrId, connection: Connection) -> None:
    """Take no new calls; those that run may end."""
    with connection.session() as at:
        one = at.find(name_or_id)

        def paused(answer: Paused) -> None:
            show.say(f"{one.name} is paused")
            if answer.message:
                show.note(answer.message)

        at.answer(requests.pause(one.id), paused)


@app.command()
def resume(name_or_id: NameOrId, connection: Connection) -> None:
    """Take calls again after a pause."""
    with connection.session() as at:
        one = at.answer(requests.resume(at.find(name_or_id).id), _stands)
    if one.state == "error":
        raise Exit(1)


@app.command()
def rollback(
    name_or_id: NameOrId,
    version: Annotated[int, Argument(least=1, help="As `versions` lists them.")],
    connection: Connection,
) -> None:
    """Let an earlier version serve again. Names and scaling stay as they are."""
    with connection.session() as at:
        one = at.answer(requests.rollback(at.find(name_or_id).id, version), _changed)
    _must_stand(one)


@app.command()
def versions(
    name_or_id: NameOrId,
    *,
    limit: Annotated[int | None, Option(least=1, help="At most so many.")] = None,
    cursor: Annotated[str | None, Option(help="Where the last list ended.")] = None,
    connection: Connection,
) -> None:
    """List a function's versions, newest first."""
    with connection.session() as at:
        wanted = requests.versions(at.find(name_or_id).id, limit=limit, cursor=cursor)
        at.answer(wanted, tables.versions)


@app.command()
def pool(name_or_id: NameOrId, connection: Connection) -> None:
    """Count a function's instances by state."""
    with connection.session() as at:
        at.answer(requests.pool(at.find(name_or_id).id), tables.pool)


@app.command()
def invocations(
    name_or_id: NameOrId,
    *,
    limit: Annotated[int | None, Option(least=1, help="At most so many.")] = None,
    status: Annotated[str | None, Option(help="Only those that ended so.")] = None,
    cold: Annotated[
        bool | None, Option(("--cold",), off="--warm", help="Only those that began so.")
    ] = None,
    cursor: Annotated[str | None, Option(help="Where the last list ended.")] = None,
    connection: Connection,
) -> None:
    """List a function's calls, newest first."""
    with connection.session() as at:
        wanted = requests.invocations(
            at.find(name_or_id).id, limit=limit, status=status, cold_start=cold, cursor=cursor
        )
        at.answer(wanted, tables.invocations)


@app.command()
def output(
    name_or_id: NameOrId,
    invocation_id: Annotated[str, Argument(help="As `invocations` lists them.")],
    *,
    stream: Annotated[str, Option(help="stdout or stderr.")] = "stdout",
    connection: Connection,
) -> None:
    """Print what a call wrote, byte for byte.

    With -o json: `output` is the text, or base64 where it is not UTF-8; `encoding` says which.
    """
    with connection.session() as at:
        wanted = requests.output(at.find(name_or_id).id, invocation_id, stream=stream)
        written = at.client.send(wanted)
        said = {"invocation_id": invocation_id, "stream": stream, **_as_text(written)}
        at.print(written, show.encoded(said), lambda one: show.write_bytes(sys.stdout, one))


@app.command()
def timeline(
    name_or_id: NameOrId,
    invocation_id: Annotated[str, Argument(help="As `invocations` lists them.")],
    connection: Connection,
) -> None:
    """Show where the time of a call went, and why it was cold."""
    with connection.session() as at:
        at.answer(requests.timeline(at.find(name_or_id).id, invocation_id), tables.timeline)


@app.command()
def scale(
    name_or_id: NameOrId,
    *,
    min_instances: Annotated[int | None, Option(("--min",), metavar="N", help="Kept warm.")] = None,
    max_instances: Annotated[int | None, Option(("--max",), metavar="N", help="At most.")] = None,
    connection: Connection,
) -> None:
    """Set how many instances a function has, at once and without a new version."""
    if min_instances is None and max_instances is None:
        raise BadParameter("give --min or --max, or both")
    with connection.session() as at:
        one = at.find(name_or_id)
        least = one.min_instances if min_instances is None else min_instances
        most = one.max_instances if max_instances is None else max_instances

        def scaled(now: Targets) -> None:
            show.say(f"{one.name} has {now.min_instances} to {now.max_instances} instances")

        at.answer(requests.set_scaling(one.id, least, most, tenant_id=one.tenant_id or ""), scaled)


@app.command()
def delete(
    name_or_id: NameOrId,
    yes: Annotated[bool, Option(("--yes", "-y"), help="Do not ask.")] = False,
    *,
    connection: Connection,
) -> None:
    """Delete a function. Calls that run have a moment to end."""
    with connection.session() as at:
        one = at.find(name_or_id)
        if not yes:
            show.ask(f"Delete {one.name} ({one.id})?")
        done = {"deleted": True, "id": one.id, "name": one.name}
        at.answer(requests.delete(one.id), lambda _: show.say(f"deleted {one.name}"), done)


def _as_text(written: bytes) -> dict[str, str]:
    try:
        return {"encoding": "utf-8", "output": written.decode()}
    except UnicodeDecodeError:
        return {"encoding": "base64", "output": base64.b64encode(written).decode()}


def _created(made: Created) -> None:
    show.say(f"created {made.name} ({made.function_id}): version {made.version}, {made.state}")
    show.note(f"deploy it with: quiltfn functions deploy {made.name}")


def _stands(one: Function) -> None:
    show.say(f"{one.name} is {one.state}: version {one.current_version}")
    if one.state == "error":
        show.complain(one.error_message or "it could not be deployed")
    elif one.state == "deploying":
        show.note(f"it takes its time; look again with: quiltfn functions get {one.name}")


def _changed(one: Function) -> None:
    """A new version that cannot serve is kept, and the old one goes on serving."""
    _stands(one)
    if one.state != "error" and one.error_message:
        show.complain(one.error_message)


def _must_stand(one: Function) -> None:
    if one.state == "error" or one.error_message:
        raise Exit(1)
