"""`quiltfn functions …`: make, look at, deploy and delete functions."""

from typing import Annotated

import typer
from msgspec import UNSET

from quiltfn.cli import show
from quiltfn.cli.session import (
    Environment,
    Format,
    Output,
    Url,
    Word,
    parse_environment,
    session,
)
from quiltfn.sdk import Created, Function, NewFunction, requests

app = typer.Typer(
    name="functions", help="Make, look at, deploy and delete functions.", no_args_is_help=True
)


# The parameters are the command's options: Typer reads them from the signature.
@app.command()
def create(  # noqa: PLR0913
    name: Annotated[str, typer.Argument(help="The function's name.")],
    *,
    handler: Annotated[str, typer.Option(help="What runs: for shell, a command line.")],
    runtime: Annotated[str | None, typer.Option(help="Default: shell.")] = None,
    description: Annotated[str | None, typer.Option()] = None,
    cluster_id: Annotated[str | None, typer.Option(help="A label.")] = None,
    memory: Annotated[
        int | None, typer.Option(metavar="MB", help="Memory limit. Default: 256.")
    ] = None,
    cpu: Annotated[
        float | None, typer.Option(metavar="PERCENT", help="100 is one core. Default: 100.")
    ] = None,
    timeout: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="Of one call. Default: 30.")
    ] = None,
    env: Environment = None,
    min_instances: Annotated[
        int | None, typer.Option("--min", metavar="N", help="Kept warm. Default: 0.")
    ] = None,
    max_instances: Annotated[
        int | None, typer.Option("--max", metavar="N", help="At most. Default: 5.")
    ] = None,
    keep_tmp: Annotated[
        bool, typer.Option("--keep-tmp", help="/tmp survives to an instance's next call.")
    ] = False,
    workdir: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where the handler starts.")
    ] = None,
    url: Url = None,
    output: Format = Output.TABLE,
) -> None:
    """Create a function. It runs once it is deployed."""
    new = NewFunction(
        name=name,
        handler=handler,
        runtime=UNSET if runtime is None else runtime,
        description=UNSET if description is None else description,
        cluster_id=UNSET if cluster_id is None else cluster_id,
        memory_limit_mb=UNSET if memory is None else memory,
        cpu_limit_percent=UNSET if cpu is None else cpu,
        timeout_seconds=UNSET if timeout is None else timeout,
        environment=parse_environment(env) or UNSET,
        min_instances=UNSET if min_instances is None else min_instances,
        max_instances=UNSET if max_instances is None else max_instances,
        cleanup_on_exit=False if keep_tmp else UNSET,
        working_directory=UNSET if workdir is None else workdir,
    )
    with session(url, output) as at:
        at.answer(requests.create(new), _created)


@app.command("list")
def list_functions(
    state: Annotated[str | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    cursor: Annotated[str | None, typer.Option(help="Where the last list ended.")] = None,
    url: Url = None,
    output: Format = Output.TABLE,
) -> None:
    """List functions."""
    with session(url, output) as at:
        wanted = requests.list_functions(state=state, limit=limit, cursor=cursor)
        at.answer(wanted, show.functions)


@app.command()
def get(word: Word, url: Url = None, output: Format = Output.TABLE) -> None:
    """Show one function."""
    with session(url, output) as at:
        at.answer_for(word, (requests.get, requests.get_by_name), show.function)


@app.command()
def deploy(word: Word, url: Url = None, output: Format = Output.TABLE) -> None:
    """Make a function ready to be called."""
    with session(url, output) as at:
        one = at.answer(requests.deploy(at.find(word).id), _deployed)
    if one.state == "error":
        raise typer.Exit(1)


@app.command()
def delete(
    word: Word,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    output: Format = Output.TABLE,
) -> None:
    """Delete a function. Calls that run have a moment to end."""
    with session(url, output) as at:
        one = at.find(word)
        if not yes:
            typer.confirm(f"Delete {show.visible(one.name)} ({one.id})?", abort=True, err=True)
        at.answer(requests.delete(one.id), lambda _: show.say(f"deleted {one.name}"))


def _created(made: Created) -> None:
    show.say(f"created {made.name} ({made.function_id}): version {made.version}, {made.state}")
    show.note(f"deploy it with: quiltfn functions deploy {made.name}")


def _deployed(one: Function) -> None:
    show.say(f"{one.name} is {one.state}: version {one.current_version}")
    if one.state == "error":
        show.complain(one.error_message or "it could not be deployed")
    elif one.state == "deploying":
        show.note(f"it takes its time; look again with: quiltfn functions get {one.name}")
