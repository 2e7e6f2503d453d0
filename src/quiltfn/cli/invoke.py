"""`quiltfn invoke`: run a function as if it were a command of this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from quiltfn.cli import show
from quiltfn.cli.options import Environment, grouped, parse_environment
from quiltfn.cli.session import Connection, Word
from quiltfn.sdk import Invocation, Request, requests


@grouped
def invoke(
    word: Word,
    *,
    payload: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the handler reads.")
    ] = None,
    payload_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Read the payload from a file, or from standard input: -",
        ),
    ] = None,
    env: Environment = None,
    timeout: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="Shorter than the function's own.")
    ] = None,
    connection: Connection,
) -> None:
    """Run a function once. Its output is printed; if it fails, its exit code is this command's."""
    handed = read_payload(payload, payload_file)
    environment = parse_environment(env) or None

    def by_id(one: str) -> Request[Invocation]:
        return requests.invoke(one, handed, environment=environment, timeout_seconds=timeout)

    def by_name(one: str) -> Request[Invocation]:
        return requests.invoke_by_name(
            one, handed, environment=environment, timeout_seconds=timeout
        )

    with connection.session() as at:
        ended = at.answer_for(word, (by_id, by_name), show.invocation)
    raise typer.Exit(exit_code(ended))


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


def read_payload(text: str | None, path: Path | None) -> str | None:
    """The payload that two options name together. Raises `BadParameter`."""
    if path is None:
        return text
    if text is not None:
        raise typer.BadParameter("give --payload or --payload-file, not both")
    try:
        # Bytes, not text: reading text would rewrite line ends.
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return content.decode()
    except UnicodeDecodeError:
        raise typer.BadParameter("the payload must be UTF-8 text; base64 can carry bytes") from None
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from None
