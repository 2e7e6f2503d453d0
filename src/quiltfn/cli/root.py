"""The command itself: its words, and what becomes of errors. No traceback reaches a user."""

import importlib
import io
import os
import sys
import textwrap
import traceback
from collections.abc import Sequence

from quiltfn import __version__
from quiltfn.cli import parsing, show
from quiltfn.cli.parsing import WRONG, BadParameter, Exit, Group, Run
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
    "service": "Write or remove the files of a systemd service.",
    "doctor": "Check this machine; --sweep removes what a crash left.",
    "backup": "Keep everything that a server has in one archive, while it runs or not.",
    "restore": "Make a data directory what it was when an archive was made.",
    "simulate": "Replay a trace of calls through the keep-alive policies.",
}


ABOUT = "Serverless functions on your own Linux machine."
EPILOG = (
    "The server is found at --url, else QUILT_BASE_URL, else http://127.0.0.1:8080. "
    "The key, if it wants one: --api-key, else QUILT_API_KEY."
)


def perform(words: Sequence[str]) -> None:
    """What the words say. Raises `Exit`, and what commands raise."""
    word = words[0] if words else "--help"
    program = f"quiltfn {word}"
    if word == "--version":
        show.say(f"quiltfn {__version__}")
    elif word in ("--help", "-h"):
        show.pass_through(overview(), sys.stdout)
        if not words:
            raise Exit(WRONG)
    elif word in GROUPS:
        _group(word).run(program, words[1:])
    elif word in COMMANDS:
        parsing.run(_command(word), program, words[1:])
    elif word in ON_THIS_MACHINE:
        _on_this_machine(word, list(words[1:]))
    else:
        known = ", ".join([*GROUPS, *COMMANDS, *ON_THIS_MACHINE])
        raise BadParameter(
            f"quiltfn has no command {word!r}; there are: {known}",
            "quiltfn --help says what there is",
        )


def overview() -> str:
    """`quiltfn --help`."""
    told = {word: parsing.first_sentence(_command(word)) for word in COMMANDS}
    told |= {word: _group(word).help for word in GROUPS}
    lines = ["usage: quiltfn COMMAND …", "", ABOUT, "", "commands (each has --help):"]
    lines += [f"  {word:<11}{about}" for word, about in told.items()]
    lines += ["", "this machine:"]
    lines += [f"  {word:<11}{about}" for word, about in ON_THIS_MACHINE.items()]
    lines += ["", *textwrap.wrap(EPILOG, 80), "", "--version shows the version."]
    return "".join(f"{line}\n" for line in lines)


def _group(word: str) -> Group:
    group: Group = importlib.import_module(f"quiltfn.cli.{GROUPS[word]}").app
    return group


def _command(word: str) -> Run:
    command: Run = getattr(importlib.import_module(f"quiltfn.cli.{COMMANDS[word]}"), word)
    return command


def _on_this_machine(word: str, arguments: list[str]) -> None:
    # These need server code, which the client commands do without: another process, same name.
    os.execv(sys.executable, [sys.executable, "-m", "quiltfn", word, *arguments])


def run(argv: Sequence[str]) -> int:
    """Run one command line, without the program's name; the answer is the exit code.

    Raises BrokenPipeError where nobody reads what it prints.
    """
    try:
        perform(argv)
    except Exit as end:
        return end.code
    except BadParameter as error:
        show.complain(error.message, error.hint)
        return WRONG
    except KeyboardInterrupt:
        return INTERRUPTED
    except show.NobodyReads:
        raise BrokenPipeError from None
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ApiError as error:
        known = error.invocation_id is None or error.invocation_id in (error.hint or "")
        record = None if known else f"recorded as invocation {error.invocation_id}"
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
