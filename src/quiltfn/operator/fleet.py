"""`quiltfn fleet`: creates a fleet, and the files of its nodes, without a server."""

import argparse
import contextlib
import getpass
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from quiltfn.base.clock import SystemClock
from quiltfn.base.setting_files import BadSetting, read_private, read_secret
from quiltfn.fleet import files
from quiltfn.operator.outcome import run_and_report
from quiltfn.server.opened_store import NO_DRIVER
from quiltfn.settings import check_store, password_in

DAYS_MAX = 3650


def main(arguments: Sequence[str]) -> int:
    """Creates a file; returns the exit code."""
    given = parser().parse_args(arguments)
    act = {"init": init, "add-node": add_node}[given.verb]
    return run_and_report(lambda: act(given))


def init(given: argparse.Namespace) -> str:
    """Creates the fleet's file, and assigns the database to the fleet. Raises `BadSetting`,
    `StoreBroken` and `OSError`; then no file is left.
    """
    path = Path(given.fleet)
    url = given.store or asked_for("store", "PostgreSQL (postgresql://USER@HOST/DATABASE): ")
    check_store("store", url)
    if given.store_password_file:
        name = "store_password_file"
        password = password_in(name, read_secret(name, Path(given.store_password_file)))
    elif sys.stdin.isatty():
        password = answer_to(getpass.getpass, "password of that USER (empty: none): ")
    else:
        password = ""
    made = files.new_fleet(url, password, SystemClock().unix())
    files.write(path, files.as_text(made))
    try:
        begin_fleet(made)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return (
        f"created fleet {made.fleet_id}; {path} is its file, which can add nodes: store it like a "
        "secret"
    )


def begin_fleet(made: files.FleetFile) -> None:
    """Registers the fleet in its database. Raises `BadSetting` and `StoreBroken`."""
    try:
        from quiltfn.store.fleet import init as fleet_init  # noqa: PLC0415 — it needs the extra
    except ImportError as error:
        raise BadSetting(NO_DRIVER.format(error=error)) from None
    fleet_init.begin_fleet(made.store, made.store_password or None, made.fleet_id)


def asked_for(name: str, question: str) -> str:
    """Asks for a value on the terminal. Raises `BadSetting` if there is no terminal."""
    if not sys.stdin.isatty():
        raise BadSetting(f"{name} is needed: --{name}")
    return answer_to(input, question).strip()


def answer_to(ask: Callable[[str], str], question: str) -> str:
    """Asks a question. Raises `BadSetting` at the end of input (Ctrl-D)."""
    try:
        return ask(question)
    except EOFError:
        raise BadSetting("no answer was given") from None


def add_node(given: argparse.Namespace) -> str:
    """Creates a node's file. Raises `BadSetting` and `OSError`."""
    fleet = files.parse(files.FleetFile, read_private("fleet", Path(given.fleet)))
    if not 1 <= given.days <= DAYS_MAX:
        raise BadSetting(f"days must be between 1 and {DAYS_MAX}, not {given.days}")
    addresses = given.address, given.listen or given.address
    made = files.new_node(fleet, given.name, addresses, SystemClock().unix(), given.days)
    path = Path(given.output or f"{made.name}.toml")
    try:
        files.write(path, files.as_text(made))
    except FileExistsError as error:
        raise FileExistsError(
            error.errno, "the file exists; choose another with --output", error.filename
        ) from None
    return (
        f"{path} is the file of node {made.name}: start the node with quiltfn serve --fleet "
        f"{path}; a node that was removed from the fleet cannot start again under its name"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = argparse.ArgumentParser(
        prog="quiltfn fleet",
        description="Create a fleet, several servers that share one PostgreSQL, and the files of "
        "its nodes.",
    )
    codes = "exit codes: 0 created · 1 a file cannot be read or written, or exists already"
    verbs = it.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    verb = verbs.add_parser(
        "init",
        help="create a fleet: its file, and its entry in the database",
        description="Create a fleet. Its file has the key of its certificates, the nodes' signing "
        "key, and the database with its password: whoever has the file can add nodes. "
        "An empty database gets its tables; the database of a stopped server keeps its "
        "content. On a terminal, omitted values are asked for.",
        epilog=f"{codes} · 74 the database cannot be used, is in use or belongs to a fleet · "
        "78 an argument is wrong",
    )
    verb.add_argument("--store", metavar="URL", help="postgresql://USER@HOST/DATABASE")
    verb.add_argument(
        "--store-password-file", metavar="FILE", help="file with the password of USER"
    )
    file_of(verb, "path of the new file")
    verb = verbs.add_parser(
        "add-node",
        help="create the file of a node",
        description="Create the file of a node: its certificate and key, the database with its "
        "password, and the fleet's signing key. Copy it to the node's machine over an "
        "encrypted connection. For an existing node, this creates a new certificate; "
        "use --output if its old file is still there. A removed node cannot start "
        "again under its name, but its file is created anyway, since this command does "
        "not query the database.",
        epilog=f"{codes} · 78 an argument or the fleet's file is wrong",
    )
    verb.add_argument("name", help="name of the node: lowercase letters, digits and hyphens")
    verb.add_argument(
        "--address",
        required=True,
        metavar="HOST:PORT",
        help="address at which other nodes reach its peer port",
    )
    verb.add_argument(
        "--listen", metavar="HOST:PORT", help="address to bind the port to (default: --address)"
    )
    verb.add_argument("--output", metavar="FILE", help="the node's file (default NAME.toml)")
    verb.add_argument(
        "--days", type=int, default=365, help="validity of its certificate in days (default 365)"
    )
    file_of(verb, "the fleet's file")
    return it


def file_of(verb: argparse.ArgumentParser, about: str) -> None:
    verb.add_argument(
        "--fleet", metavar="FILE", default="fleet.toml", help=f"{about} (default fleet.toml)"
    )
