"""`quiltfn dev`: runs a directory as a function. After every edit it deploys the function again,
invokes it and shows the result.
"""

import hashlib
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

from msgspec import Struct
from msgspec.structs import replace

from quiltfn.cli import lock_files, payload, runtime_files, show, urls, watching
from quiltfn.cli.field_options import keeping_state
from quiltfn.cli.invoke import exit_code, show_ended
from quiltfn.cli.options import Environment, pairs_of
from quiltfn.cli.parsing import BadParameter, Exit, Option
from quiltfn.cli.project import PROJECT_FILE
from quiltfn.cli.session import Connection, Session
from quiltfn.sdk import (
    ApiError,
    Function,
    Invocation,
)
from quiltfn.wire import Kind, Network

MAIN = "main:handler"
IN_A_PROJECT = (
    f"this directory has a {PROJECT_FILE}: quiltfn deploy --watch deploys the project after every "
    "edit; dev ignores it, and runs the files as a separate function"
)

OF_A_PROJECT = (
    f"this directory has a {PROJECT_FILE}: quiltfn deploy --watch deploys all of its functions "
    "after every edit; quiltfn dev --dir DIRECTORY runs the files of one function function"
)


class DevOptions(Struct, frozen=True, kw_only=True):
    """How `dev` runs the directory."""

    handler: Annotated[
        str | None,
        Option(
            help="Handler: module:function, or a command line for shell and server (default: "
            "main:handler)."
        ),
    ] = None
    kind: Annotated[
        Kind | None, Option(help="Kind of runtime (default: detected from the files).")
    ] = None
    payload: Annotated[str | None, Option(metavar="TEXT", help="Payload of each invocation.")] = (
        None
    )
    payload_file: Annotated[
        Path | None,
        Option(metavar="PATH", help="File to read the payload from before each invocation."),
    ] = None
    env: Environment = None
    network: Annotated[Network, Option(help="Network access of the handler.")] = Network.NONE
    once: Annotated[
        bool, Option(("--once",), help="Build, invoke and exit without watching for edits.")
    ] = False


def dev(
    *,
    directory: Annotated[
        Path,
        Option(("--dir",), metavar="DIR", help="Directory with your files.", is_directory=True),
    ] = Path(),
    options: DevOptions,
    connection: Connection,
) -> None:
    """Run a directory as a function, and rerun it after every edit.

    The function and its runtime are named dev-DIRECTORY-… and are removed at the end (Ctrl-C).
    With --once, the exit code is that of `invoke`, or of a failed build; without --payload and
    --payload-file, the payload is read from a pipe on standard input.
    A web server keeps its state and gets a URL; this command invokes it only with a payload.
    """
    kind = options.kind or kind_of(directory)
    handler = handler_of(kind, options.handler)
    # Read first: an invalid payload is refused before anything is built.
    piped = payload.of_call(options.payload, options.payload_file) if options.once else None
    watching.take_signals()
    try:
        with ExitStack() as stack:
            at = stack.enter_context(connection.session())
            name = name_of(directory)
            stack.enter_context(watching.alone(directory, "quiltfn dev"))
            chosen = replace(options, kind=kind, handler=handler)
            function = DevFunction(at, partial(source_of, directory, kind), chosen, name, piped)
            stack.callback(function.remove)
            if (directory / PROJECT_FILE).is_file():
                show.note(IN_A_PROJECT)
            if options.once:
                ended = function.run()
                raise Exit(0 if ended is None else exit_code(ended))
            watching.watch(directory, function.turn)
    except KeyboardInterrupt:
        if options.once:
            raise


def name_of(directory: Path) -> str:
    """The name of the function and of its runtime. It is different for every directory and machine,
    and the same each time."""
    path = directory.resolve()
    word = "".join(one if one.isalnum() else "-" for one in path.name)
    place = f"{platform.node()}\0{path}".encode(errors="surrogateescape")
    digest = hashlib.sha256(place).hexdigest()[:8]
    return f"dev-{word.lower().strip('-')}"[:50].strip("-") + f"-{digest}"


def kind_of(directory: Path) -> Kind:
    """The kind of runtime that the files are for. Raises `BadParameter`."""
    for kind, patterns in (
        (Kind.NODE, ("package.json", "*.js", "*.mjs", "*.cjs")),
        (Kind.PYTHON, ("*.py",)),
    ):
        if any(next(directory.glob(pattern), None) for pattern in patterns):
            return kind
    is_project = (directory / PROJECT_FILE).is_file()
    raise BadParameter(
        f"{directory} has neither .py nor .js files; name its kind: --kind",
        OF_A_PROJECT if is_project else None,
    )


def handler_of(kind: Kind, said: str | None) -> str:
    """The handler. Raises `BadParameter` if none is given and none can be guessed."""
    if said is None and kind not in (Kind.PYTHON, Kind.NODE):
        noun = "the command line that starts the server" if kind is Kind.SERVER else "what to run"
        raise BadParameter(f"--kind {kind.value} needs --handler: {noun}")
    return MAIN if said is None else said


def source_of(directory: Path, kind: Kind) -> runtime_files.Source:
    """The current files of the function's runtime."""
    takes_them = kind in runtime_files.WITH_PYTHON
    wanted = lock_files.find(directory) if takes_them else None
    return runtime_files.Source(kind=kind, directory=directory, requirements=wanted)


class DevFunction:
    """The function that `dev` runs, from its first build to its removal."""

    def __init__(
        self,
        at: Session,
        source: Callable[[], runtime_files.Source],
        options: DevOptions,
        name: str,
        handed: str | None,
    ) -> None:
        """`source`: returns its files. `options`: with a kind and a handler. `handed`: the payload,
        if it was already read.
        """
        self._at, self._source, self._options, self._name = at, source, options, name
        self._handed = handed
        self._is_server = options.kind is Kind.SERVER
        self._function: str | None = None
        self._has_runtime = self._has_url = False

    def turn(self) -> None:
        """Like `run`, but show errors instead of raising them, since the next edit may fix them."""
        watching.with_report(self.run, self._name)

    def run(self) -> Invocation | None:
        """Build, deploy and invoke the function, and show the result. A web server without a
        payload is not invoked: its URL is shown.

        Raises `FunctionFailed` if it cannot be deployed, and the errors of the client and the
        installers.
        """
        began = time.monotonic()
        function = self._deploy()
        took = time.monotonic() - began
        show.note(f"version {function.current_version} is live after {took:.2f} s")
        at, options, handed = self._at, self._options, self._handed
        if handed is None:
            handed = payload.of_options(options.payload, options.payload_file)
        if self._is_server:
            self._show_url(function.id)
            if handed is None:
                return None
        ended = at.client.invoke(function.id, handed)
        return at.show(ended, lambda record: show_ended(at.client, record))

    def _show_url(self, function: str) -> None:
        if not self._has_url:
            given = self._at.client.functions.set_url(function)
            self._has_url = True
            show.note(f"its URL: {urls.address_of(given, self._at.address)}")

    def remove(self) -> None:
        """Remove the function and the runtime, if they were created."""
        client = self._at.client
        if self._function is not None:
            client.functions.delete(self._function)
        if self._has_runtime:
            client.runtimes.remove(self._name)

    def _left_over(self) -> str | None:
        """The id of a function that a killed session left behind, to be reused."""
        try:
            return self._at.client.functions.get(self._name).id
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def _deploy(self) -> Function:
        client, options, source = self._at.client, self._options, self._source()
        client.runtimes.add(
            name=self._name,
            kind=source.kind.value,
            network=options.network.value,
            **runtime_files.upload(self._at, source).fields,
        )
        self._has_runtime = True
        # All of it in each update: one that cannot start leaves the version of a killed session.
        fields = {
            "handler": options.handler or MAIN,
            "runtime": self._name,
            "environment": pairs_of("--env", options.env),
            **keeping_state(self._is_server),
        }
        if self._function is None:
            self._function = self._left_over()
        if self._function is None:
            created = client.functions.create(name=self._name, **fields)
            self._function = created.function_id
            return client.functions.deploy(self._function)
        function = client.functions.update(self._function, **fields)
        if function.state != "active":
            function = client.functions.deploy(self._function)
        return function
