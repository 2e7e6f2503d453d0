"""`quiltfn functions …`: create, show, change, deploy and delete functions."""

import base64
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

from msgspec import Struct
from msgspec.structs import asdict

from quiltfn.cli import show, tables, work
from quiltfn.cli.aliases import in_words
from quiltfn.cli.options import FieldsOf, InvocationId, IsCold, Paging, Status, Yes
from quiltfn.cli.parsing import Argument, BadParameter, Exit, Group, Option
from quiltfn.cli.session import Connection, NameOrId, Reveal, Session
from quiltfn.sdk import (
    ApiError,
    CreatedFunction,
    Function,
    FunctionFailed,
    PauseResult,
    Scaling,
    Version,
)
from quiltfn.wire import Alias, FunctionChanges, NewFunction

VERSIONS_AT_ONCE = 10

app = Group(name="functions", help="Create, show, change, deploy and delete functions.")


@app.command()
def create(
    name: Annotated[str, Argument(help="Function name.")],
    *,
    fields: Annotated[dict[str, Any], FieldsOf(NewFunction, leave_out=["name"])],
    connection: Connection,
) -> None:
    """Create a function. Deploy it before you invoke it."""
    with connection.session() as at:
        at.show(at.client.functions.create(name=name, **fields), _created)


@app.command()
def update(
    name_or_id: NameOrId,
    fields: Annotated[dict[str, Any], FieldsOf(FunctionChanges)],
    connection: Connection,
) -> None:
    """Update a function by creating a new version; other settings stay as they are.

    The new version uses the runtime's current files. --env replaces the whole environment:
    variables that aren't named are removed.
    """
    if not fields:
        raise BadParameter("name at least one field to change; --help lists them")
    with connection.session(name_or_id) as at:
        served = at.client.functions.get(name_or_id).current_version
        function = _outcome(lambda: at.client.functions.update(name_or_id, **fields))
        at.show(function, _changed)
        _note_other_files(at, function, served)
    _must_be_ready(function)


class ListOptions(Struct, frozen=True, kw_only=True):
    """Which functions are listed, and in which order."""

    state: Annotated[str | None, Option(help="Function state.")] = None
    search: Annotated[str | None, Option(help="Text in the name or description.")] = None
    sort: Annotated[
        str | None, Option(help="Sort key: name, created_at, last_invoked_at or invocation_count.")
    ] = None
    order: Annotated[str | None, Option(help="Sort order: asc or desc.")] = None


@app.command("list")
def list_functions(
    wanted: ListOptions, paging: Paging, reveal: Reveal = False, *, connection: Connection
) -> None:
    """List functions (default: oldest first)."""
    with connection.session(reveal=reveal) as at:
        found = at.client.functions.list(**asdict(wanted), **paging.fields())
        at.show(found.first(), show.functions)


@app.command()
def get(name_or_id: NameOrId, reveal: Reveal = False, *, connection: Connection) -> None:
    """Show one function."""
    with connection.session(name_or_id, reveal=reveal) as at:
        at.show(at.client.functions.get(name_or_id), show.function)


@app.command()
def deploy(name_or_id: NameOrId, connection: Connection) -> None:
    """Deploy a function, which makes it ready for invocations."""
    with connection.session(name_or_id) as at:
        _must_serve(at.show(_outcome(lambda: at.client.functions.deploy(name_or_id)), _show_state))


@app.command()
def pause(name_or_id: NameOrId, connection: Connection) -> None:
    """Pause a function: refuse synchronous invocations, queue others, let running ones finish."""
    with connection.session(name_or_id) as at:
        function = at.client.functions.get(name_or_id)

        def paused(answer: PauseResult) -> None:
            show.say(f"{function.name} is paused")
            if answer.message:
                show.note(answer.message)

        at.show(at.client.functions.pause(function.id), paused)


@app.command()
def resume(name_or_id: NameOrId, connection: Connection) -> None:
    """Resume a paused function."""
    with connection.session(name_or_id) as at:
        _must_serve(at.show(_outcome(lambda: at.client.functions.resume(name_or_id)), _show_state))


@app.command()
def rollback(
    name_or_id: NameOrId,
    version: Annotated[
        int | None,
        Argument(
            least=1,
            help="Version number from `versions` (default: the one before the current version).",
        ),
    ] = None,
    *,
    connection: Connection,
) -> None:
    """Make an earlier version current. The default alias moves to it, and no alias sends
    invocations to the current one any more. Name and scaling stay as they are.
    """
    with connection.session(name_or_id) as at:
        version = version or _version_before(at, name_or_id)
        before = _aliases(at, name_or_id)
        function = _outcome(lambda: at.client.functions.rollback(name_or_id, version))
        at.show(function, _changed)
        for alias in _aliases(at, name_or_id):
            if alias not in before:
                show.note(in_words(alias))
    _must_be_ready(function)


def _version_before(at: Session, name_or_id: str) -> int:
    """The newest stored version before the current one. Raises `Exit`."""
    functions = at.client.functions
    current = functions.get(name_or_id).current_version
    for version in functions.list_versions(name_or_id):
        if version.version < current:
            return version.version
    show.complain(f"there is no version before the current one, {current}")
    raise Exit(1)


@app.command()
def versions(
    name_or_id: NameOrId, paging: Paging, reveal: Reveal = False, *, connection: Connection
) -> None:
    """List a function's versions, newest first."""
    with connection.session(name_or_id, reveal=reveal) as at:
        found = at.client.functions.list_versions(name_or_id, **paging.fields())
        at.show(found.first(), tables.versions)


OfVersion = Annotated[int | None, Option(help="Version (default: the current one).")]


@app.command()
def files(
    name_or_id: NameOrId, paging: Paging, version: OfVersion = None, *, connection: Connection
) -> None:
    """List the files that a function has at /app."""
    with connection.session(name_or_id) as at:
        functions = at.client.functions
        number = version or functions.get(name_or_id).current_version
        found = functions.list_version_files(name_or_id, number, **paging.fields())
        at.show(found.first(), tables.runtime_files)


@app.command("file")
def print_file(
    name_or_id: NameOrId,
    path: Annotated[str, Argument(help="Path from `files`.")],
    *,
    version: OfVersion = None,
    connection: Connection,
) -> None:
    """Print a file that a function has at /app, byte for byte."""
    with connection.session(name_or_id) as at:
        functions = at.client.functions
        number = version or functions.get(name_or_id).current_version
        content = functions.get_version_file(name_or_id, number, path)
        _print_bytes(at, content, path=path, version=number)


@app.command()
def pool(name_or_id: NameOrId, connection: Connection) -> None:
    """Count a function's instances by state."""
    with connection.session(name_or_id) as at:
        at.show(at.client.functions.get_pool(name_or_id), tables.pool)


@app.command()
def egress(name_or_id: NameOrId, connection: Connection) -> None:
    """Show a function's network access and its blocked connection attempts since the server
    started.
    """
    with connection.session(name_or_id) as at:
        at.show(at.client.functions.get_egress(name_or_id), tables.egress)


@app.command()
def invocations(
    name_or_id: NameOrId,
    paging: Paging,
    *,
    status: Status = None,
    cold: IsCold = None,
    connection: Connection,
) -> None:
    """List a function's invocations, newest first."""
    with connection.session(name_or_id) as at:
        found = at.client.functions.list_invocations(
            name_or_id, status=status, cold_start=cold, **paging.fields()
        )
        at.show(found.first(), tables.invocations)


@app.command()
def record(name_or_id: NameOrId, invocation_id: InvocationId, connection: Connection) -> None:
    """Show the record of an invocation without its output, which -o json includes."""
    with connection.session(name_or_id) as at:
        found = at.client.functions.get_invocation(name_or_id, invocation_id)
        at.show(found, tables.invocation)


@app.command()
def output(
    name_or_id: NameOrId,
    invocation_id: InvocationId,
    *,
    stream: Annotated[str, Option(help="Stream: stdout or stderr.")] = "stdout",
    connection: Connection,
) -> None:
    """Print the output of an invocation, byte for byte.

    With -o json, `output` is the text, or base64 if it isn't UTF-8; `encoding` is which of the two.
    """
    with connection.session(name_or_id) as at:
        written = at.client.functions.get_invocation_output(
            name_or_id, invocation_id, stream=stream
        )
        _print_bytes(at, written, invocation_id=invocation_id, stream=stream)


@app.command()
def timeline(name_or_id: NameOrId, invocation_id: InvocationId, connection: Connection) -> None:
    """Show the timeline of an invocation, and the reason of a cold start."""
    with connection.session(name_or_id) as at:
        found = at.client.functions.get_invocation_timeline(name_or_id, invocation_id)
        at.show(found, tables.timeline)


app.command()(work.attempts)
app.command("input")(work.input_of)
app.command("async-policy")(work.async_policy)
app.command("record-policy")(work.record_policy)


@app.command()
def scale(
    name_or_id: NameOrId,
    *,
    min_instances: Annotated[
        int | None, Option(("--min",), metavar="N", help="Minimum instances.")
    ] = None,
    max_instances: Annotated[
        int | None, Option(("--max",), metavar="N", help="Maximum instances.")
    ] = None,
    connection: Connection,
) -> None:
    """Set a function's minimum and maximum instances, at once and without a new version."""
    if min_instances is None and max_instances is None:
        raise BadParameter("give --min or --max, or both")

    def scaled(now: Scaling) -> None:
        show.say(f"{name_or_id} now has {now.min_instances} to {now.max_instances} instances")

    with connection.session(name_or_id) as at:
        now = at.client.elasticity.set_pool_target(
            name_or_id, min_instances=min_instances, max_instances=max_instances
        )
        at.show(now, scaled)


@app.command()
def delete(name_or_id: NameOrId, yes: Yes = False, *, connection: Connection) -> None:
    """Delete a function. Running invocations are cancelled after 5 seconds."""
    with connection.session(name_or_id) as at:
        function = at.client.functions.get(name_or_id)
        if not yes:
            show.ask(f"Delete {function.name} ({function.id})?")
        at.client.functions.delete(function.id)
        at.say(f"deleted {function.name}", deleted=True, id=function.id, name=function.name)


def _print_bytes(at: Session, content: bytes, **about: object) -> None:
    """Print bytes as they are, or for programs with their encoding and `about`."""
    try:
        text = {"encoding": "utf-8", "output": content.decode()}
    except UnicodeDecodeError:
        text = {"encoding": "base64", "output": base64.b64encode(content).decode()}
    at.print(
        content, show.encoded(about | text), lambda content: show.write_bytes(sys.stdout, content)
    )


def _created(made: CreatedFunction) -> None:
    show.say(f"created {made.name} ({made.function_id}): version {made.version}, {made.state}")
    show.note(f"deploy it with: quiltfn functions deploy {made.name}")


def _outcome(change: Callable[[], Function]) -> Function:
    """The function after the change. If it cannot start, it is printed before the command fails."""
    try:
        return change()
    except FunctionFailed as failed:
        return failed.function


def _note_other_files(at: Session, now: Function, served: int) -> None:
    """Print a note if the new version has different runtime files than the previous one, as after a
    rollback.
    """
    found: dict[int, Version] = {}
    with suppress(ApiError):  # the update itself has succeeded
        for version in at.client.functions.list_versions(now.id, page_size=VERSIONS_AT_ONCE):
            found[version.version] = version
            if version.version <= served:
                break
    made, before = found.get(now.current_version), found.get(served)
    if made is None or before is None or made.runtime != before.runtime:
        return
    if made.image_digest != before.image_digest:
        show.note(
            f"version {made.version} has the files that runtime {made.runtime} has now, "
            f"not those of version {served}, the previous current version"
        )


def _aliases(at: Session, name_or_id: str) -> list[Alias]:
    with suppress(ApiError):  # without the list, only the note is missing
        return at.client.functions.list_aliases(name_or_id).aliases
    return []


def _show_state(function: Function) -> None:
    show.say(f"{function.name} is {function.state}: version {function.current_version}")
    if (alias := show.elsewhere(function)) is not None:
        hint = show.all_on(function.name, function.current_version, alias)
        show.note(f"invocations run on {show.runs_on(alias)}; {hint}")
    if function.state == "error":
        show.complain(
            show.quoted(function.error_message or "it could not be deployed"), own_lines=True
        )
    elif function.note:
        show.note(function.note)
    elif function.state == "deploying":
        show.note(f"it is not ready yet; check with: quiltfn functions get {function.name}")


def _changed(function: Function) -> None:
    """Show the state, and if a new version cannot start, the reason; the old one stays current."""
    _show_state(function)
    if function.state != "error" and function.error_message:
        show.complain(show.quoted(function.error_message), own_lines=True)


def _must_serve(function: Function) -> None:
    if function.state == "error":
        raise Exit(1)


def _must_be_ready(function: Function) -> None:
    if function.state == "error" or function.error_message:
        raise Exit(1)
