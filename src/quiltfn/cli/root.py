"""The command itself: its words, and what becomes of errors. No traceback reaches a user."""

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from quiltfn import __version__
from quiltfn.cli import show
from quiltfn.sdk import ApiError, ClientError, ConnectionFailed

NO_SERVER, INTERRUPTED = 3, 130

# Where each word's code is. Only what a command line names is loaded: the rest takes longer to load
# than a call takes.
GROUPS = {"functions": "functions", "runtimes": "runtimes"}
COMMANDS = {
    "invoke": "invoke",
    "dev": "dev",
    "stats": "server",
    "health": "server",
    "info": "server",
}
ON_THIS_MACHINE = {
    "serve": "Start the server on this machine.",
    "keys": "Make, list and revoke API keys in the data directory.",
    "doctor": "Check this machine; --sweep removes what a crash left.",
    "simulate": "Replay a trace of calls through the keep-alive policies.",
}


def app_for(word: str) -> typer.Typer:
    """The command with what `word` needs; with everything where no word names anything."""
    app = typer.Typer(
        name="quiltfn",
        help="Serverless functions on your own Linux machine.",
        epilog="The server is found at --url, else QUILT_BASE_URL, else http://127.0.0.1:8080. "
        "The key, if it wants one: --api-key, else QUILT_API_KEY.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    known = {*GROUPS, *COMMANDS, *ON_THIS_MACHINE}
    wanted = {word} if word in known or word == "--version" else known
    for name, module in GROUPS.items():
        if name in wanted:
            app.add_typer(importlib.import_module(f"quiltfn.cli.{module}").app)
    for name, module in COMMANDS.items():
        if name in wanted:
            app.command(name)(getattr(importlib.import_module(f"quiltfn.cli.{module}"), name))
    for name, about in ON_THIS_MACHINE.items():
        if name in wanted:
            _hand_on(app, name, about)
    return app


def _version(asked: bool) -> None:
    if asked:
        show.say(f"quiltfn {__version__}")
        raise typer.Exit


def _root(
    _asked: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


_ANY_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _hand_on(app: typer.Typer, word: str, about: str) -> None:
    """A command whose words another process reads, `--help` among them."""

    def hand_on(context: typer.Context) -> None:
        _on_this_machine(word, context.args)

    app.command(word, help=about, context_settings=_ANY_WORDS, rich_help_panel="This machine")(
        hand_on
    )


def _on_this_machine(word: str, arguments: list[str]) -> None:
    # These need server code, which the client commands do without: another process, same name.
    os.execv(sys.executable, [sys.executable, "-m", "quiltfn", word, *arguments])


def run(argv: Sequence[str]) -> int:
    """Run one command line, without the program's name; the answer is the exit code.

    Raises BrokenPipeError where nobody reads what it prints.
    """
    try:
        app = app_for(argv[0] if argv else "")
        typer.main.get_command(app).main(args=list(argv), prog_name="quiltfn")
    except KeyboardInterrupt:
        return INTERRUPTED
    except show.NobodyReads:
        raise BrokenPipeError from None
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ApiError as error:
        record = f"recorded as invocation {error.invocation_id}" if error.invocation_id else None
        again = f"try again in {error.retry_after:g} s" if error.retry_after else None
        show.complain(error.message, error.hint, again, record)
        return 1
    except ConnectionFailed as error:
        show.complain(str(error))
        return NO_SERVER
    except ClientError as error:
        show.complain(str(error))
        return 1
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.lineno}"
        show.complain(
            f"quiltfn stumbled over itself: {type(error).__name__} at {place}: {error}",
            "this is a bug; please report it with the line above",
        )
        return 1
    return 0


def main() -> int:
    """The program; returns the exit code. What the terminal's encoding lacks is escaped rather than
    fatal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return run(sys.argv[1:])
