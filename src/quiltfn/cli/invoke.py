"""`quiltfn invoke`: run a function as if it were a command of this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from quiltfn.cli import payload, show, tables
from quiltfn.cli.options import FieldsOf
from quiltfn.cli.parsing import Exit, Option
from quiltfn.cli.session import Connection, NameOrId
from quiltfn.sdk import Client, ClientError, Invocation
from quiltfn.wire import NewInvocation

# What a record shows for bytes that are not UTF-8.
REPLACEMENT = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class PayloadOptions:
    """Where the handler's payload comes from."""

    payload: Annotated[str | None, Option(metavar="TEXT", help="What the handler reads.")] = None
    payload_file: Annotated[
        Path | None,
        Option(
            metavar="PATH",
            help="Read the payload from a file, or from standard input: -",
        ),
    ] = None


def invoke(
    name_or_id: NameOrId,
    given: PayloadOptions,
    fields: Annotated[dict[str, Any], FieldsOf(NewInvocation, leave_out=["payload"])],
    timing: Annotated[
        bool, Option(("--timing",), help="Then say on stderr where the time went.")
    ] = False,
    *,
    connection: Connection,
) -> None:
    """Run a function once. Its output is printed; if it fails, its exit code is this command's.

    Without --payload and --payload-file the handler reads what is piped into this command; a pipe
    from which nothing comes for 5 s is an error, and </dev/null is no payload.

    A payload is UTF-8 text. Bytes go as base64, and the handler decodes them; what it writes may be
    any bytes:
      base64 -w0 photo.jpg | quiltfn invoke thumb >thumb.png
    """
    text = payload.of_call(given.payload, given.payload_file)
    with connection.session(name_or_id) as at:
        ended = at.client.invoke(name_or_id, text, **fields)
        at.show(ended, lambda one: show_ended(at.client, one))
        if timing:
            tell_timing(at.client, ended)
    raise Exit(exit_code(ended))


def show_ended(client: Client, ended: Invocation) -> None:
    """The call's output, and how it went."""
    show.invocation(ended, lambda stream: output_of(client, ended, stream))


def output_of(client: Client, ended: Invocation, stream: str) -> bytes:
    """The bytes behind the text of a record. Where they cannot be had, the text has to do."""
    text = (ended.stdout if stream == "stdout" else ended.stderr) or ""
    if REPLACEMENT not in text:
        return text.encode()
    try:
        return client.functions.get_invocation_output(
            ended.function_id, ended.invocation_id, stream=stream
        )
    except ClientError as error:
        show.note(f"the bytes of its {stream} could not be had: {error}")
        return text.encode()


def tell_timing(client: Client, ended: Invocation) -> None:
    """The call went as it went, whether its timeline is to be had or not."""
    try:
        found = client.functions.get_invocation_timeline(ended.function_id, ended.invocation_id)
        tables.timing(found)
    except ClientError as error:
        show.note(f"its timeline could not be had: {error}")


def exit_code(ended: Invocation) -> int:
    """What a shell would report: 124 and 137 as timeout(1) and the kernel's OOM killer have it."""
    match ended.status:
        case "success":
            return 0
        case "failed":
            return min(max(ended.exit_code or 1, 1), 125)
        case "timeout":
            return 124
        case "oom":
            return 137
        case _:
            return 1
