"""The `quiltfn` command: finds the subcommand and turns errors into messages and exit codes."""

import importlib
import os
import sys
from collections.abc import Sequence

from quiltfn import __version__
from quiltfn.cli import parsing, show
from quiltfn.cli.parsing import WRONG, BadParameter, Exit, Group, Run
from quiltfn.sdk import ApiError, ClientError, ConnectionFailed
from quiltfn.sdk.named_function import NotAFunction

NO_SERVER, INTERRUPTED = 3, 130

# The module of each subcommand, and for a group its name in that module. Only the module that is
# used is imported: importing all of them takes longer than an invocation.
GROUPS = {
    "functions": "functions.app",
    "runtimes": "runtimes.app",
    "schedules": "schedules.app",
    "dead-letters": "work.dead_letters",
    "deliveries": "deliveries.app",
    "quota": "quotas.app",
    "nodes": "nodes.app",
    "tenants": "tenants.app",
    "url": "urls.app",
    "aliases": "aliases.app",
    "api-keys": "api_keys.app",
    "config": "login.app",
}
COMMANDS = {
    "invoke": "invoke",
    "invocations": "invocations",
    "logs": "logs",
    "wait": "work",
    "cancel": "work",
    "replay": "work",
    "queue": "work",
    "dev": "dev",
    "login": "login",
    "completion": "completion",
    "init": "project.init",
    "deploy": "project.commands",
    "destroy": "project.commands",
    "export": "project.export",
    "top": "top",
    "open": "dashboard",
    "events": "events",
    "audit": "audit",
    "whoami": "server",
    "instances": "server",
    "stats": "stats",
    "series": "stats",
    "usage": "stats",
    "pool-stats": "server",
    "health": "server",
    "info": "server",
}
ON_THIS_MACHINE = {
    "serve": "Start the server on this machine.",
    "keys": "Create, list and revoke API keys in the data directory.",
    "service": "Write or remove the files of a systemd service.",
    "doctor": "Check this machine; --sweep removes leftovers of a crash.",
    "backup": "Write everything that a server stores to one archive, even while it runs.",
    "restore": "Restore a data directory from a backup.",
    "store": "Copy a server's data from a data directory to PostgreSQL, or back.",
    "fleet": "Create a fleet of servers that share one PostgreSQL, and its nodes' files.",
    "simulate": "Replay a trace of invocations against the keep-alive policies.",
}


# The sections of `quiltfn --help`.
SECTIONS = {
    "start": ("login", "init", "deploy", "dev", "invoke", "logs", "open"),
    "functions": ("functions", "runtimes", "schedules", "url", "aliases", "export", "destroy"),
    "work": ("invocations", "wait", "cancel", "replay", "queue", "dead-letters", "deliveries"),
    "watch": ("top", "stats", "series", "usage", "events", "pool-stats", "instances", "audit"),
    "server": ("whoami", "api-keys", "tenants", "quota", "nodes", "health", "info"),
    "this command": ("config", "completion"),
}
ABOUT = "Serverless functions on your own Linux machine."
EPILOG = (
    "Server and key, by precedence: --url and --api-key, --profile, QUILT_BASE_URL and",
    "QUILT_API_KEY, the profile stored by `quiltfn login`, http://127.0.0.1:8080.",
)


def perform(words: Sequence[str]) -> None:
    """Run the command that `words` name. Raises `Exit`, and what commands raise."""
    word = words[0] if words else "--help"
    program = f"quiltfn {word}"
    if word == "--version":
        show.say(f"quiltfn {__version__}")
    elif word in ("--help", "-h"):
        for line in overview().splitlines():
            show.say(line, show.BOLD if line.endswith(":") else None)
        if not words:
            raise Exit(WRONG)
    elif word in GROUPS:
        group(word).run(program, words[1:])
    elif word in COMMANDS:
        parsing.run(command(word), program, words[1:])
    elif word in ON_THIS_MACHINE:
        _on_this_machine(word, list(words[1:]))
    else:
        raise parsing.no_command("quiltfn", word, [*GROUPS, *COMMANDS, *ON_THIS_MACHINE])


def overview() -> str:
    """The text of `quiltfn --help`."""
    lines = ["usage: quiltfn COMMAND …", "", ABOUT, "Each command has --help."]
    for section, words in SECTIONS.items():
        lines += ["", f"{section}:"]
        lines += [f"  {word:<14}{about(word)}" for word in words]
    from importlib.util import find_spec  # noqa: PLC0415 — for help alone

    has_server = find_spec("quiltfn.operator") is not None
    where = "this machine" if has_server else "a server's machine with the whole of quiltfn"
    lines += ["", f"{where}:"]
    lines += [f"  {word:<14}{told}" for word, told in ON_THIS_MACHINE.items()]
    lines += ["", *EPILOG, "", "--version shows the version."]
    return "".join(f"{line}\n" for line in lines)


def about(word: str) -> str:
    """A sentence about the purpose of a command."""
    return group(word).help if word in GROUPS else parsing.first_sentence(command(word))


def group(word: str) -> Group:
    """Load the module of a group of commands, and return the group."""
    module, _, name = GROUPS[word].partition(".")
    found: Group = getattr(importlib.import_module(f"quiltfn.cli.{module}"), name)
    return found


def command(word: str) -> Run:
    """Load the module of a command, and return the command."""
    module = importlib.import_module(f"quiltfn.cli.{COMMANDS[word]}")
    found: Run = getattr(module, word.replace("-", "_"))
    return found


def _on_this_machine(word: str, arguments: list[str]) -> None:
    # These commands need the server's code, which client commands do not load, so a new program
    # replaces this one. With -P, Python doesn't search the current directory, which another user
    # may own.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "quiltfn", word, *arguments])


def run(argv: Sequence[str]) -> int:
    """Run one command line, without the program's name, and return the exit code.

    Raises BrokenPipeError if the reader has closed the output.
    """
    try:
        perform(argv)
    except Exit as end:
        return end.code
    except BadParameter as error:
        show.complain(error.message, error.hint, own_lines=True)
        return WRONG
    except NotAFunction as error:
        show.complain(str(error))
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
        waits = error.retry_after and not error.hint  # a hint says more
        again = f"try again in {error.retry_after:g} s" if waits else None
        show.complain(error.message, error.hint, again, record)
        return 1
    except ConnectionFailed as error:
        show.complain(str(error))
        return NO_SERVER
    except ClientError as error:
        show.complain(str(error))
        return 1
    except Exception as error:
        import traceback  # noqa: PLC0415 — for a bug alone

        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(where.filename)}:{where.lineno}"
        show.complain(
            f"quiltfn has a bug: {type(error).__name__} at {place}: {error}",
            "please report it with the line above",
        )
        return 1
    return 0


def of_interrupted(raised: "sys.UnraisableHookArgs") -> None:
    """Ignore the error of a connection that Ctrl-C interrupted while it was being created: its
    cleanup uses an attribute that isn't set yet. Report all others as usual.
    """
    place = type(raised.object).__module__
    if not (isinstance(raised.exc_value, AttributeError) and place in ("http.client", "socket")):
        sys.__unraisablehook__(raised)
