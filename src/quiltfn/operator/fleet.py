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
    `StoreBroken` and `OSError`; it leaves no file then.
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
        f"the fleet {made.fleet_id} is made; {path} is its file, which adds nodes: keep it where "
        "you keep secrets"
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
        raise BadSetting("there was no answer") from None


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
            error.errno, "there is such a file; --output names another", error.filename
        ) from None
    return (
        f"{path} is the file of node {made.name}: start it with quiltfn serve --fleet {path}; "
        "a name that was removed from the fleet does not start again"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = argparse.ArgumentParser(
        prog="quiltfn fleet",
        description="Several servers that share one PostgreSQL, and the files that make them nodes "
        "of one fleet.",
    )
    codes = "exit codes: 0 made · 1 a file cannot be read or written, or is there already"
    verbs = it.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    verb = verbs.add_parser(
        "init",
        help="make a fleet: its file, and a note of it in its database",
        description="Make a fleet. Its file has the key of its certificates, the key that nodes "
        "sign with, and the database with its password: whoever has it can add nodes. An empty "
        "database gets its tables; one that a server used keeps what it has, and that server must "
        "be stopped. What is not given is asked for on a terminal.",
        epilog=f"{codes} · 74 the database cannot be used, is in use or is a fleet's already · "
        "78 an argument is wrong",
    )
    verb.add_argument("--store", metavar="URL", help="postgresql://USER@HOST/DATABASE")
    verb.add_argument("--store-password-file", metavar="FILE", help="with the password of USER")
    file_of(verb, "where the file is made")
    verb = verbs.add_parser(
        "add-node",
        help="make the file of a node",
        description="Make the file of a node: its certificate and key, the database with its "
        "password, and the fleet's signing key. Bring it to the node's machine by a way that "
        "nobody reads along. For a node that is there already it makes a new certificate, with "
        "--output where its first file is still there. A removed node's name does not start again: "
        "this does not ask the database, and makes its file all the same.",
        epilog=f"{codes} · 78 an argument or the fleet's file is wrong",
    )
    verb.add_argument("name", help="of the node: lowercase letters, digits and hyphens")
    verb.add_argument(
        "--address",
        required=True,
        metavar="HOST:PORT",
        help="where other nodes reach its peer port",
    )
    verb.add_argument(
        "--listen", metavar="HOST:PORT", help="what the port is bound to, if not to the address"
    )
    verb.add_argument("--output", metavar="FILE", help="the node's file (default NAME.toml)")
    verb.add_argument(
        "--days", type=int, default=365, help="for how long its certificate is valid (default 365)"
    )
    file_of(verb, "the fleet's file")
    return it


def file_of(verb: argparse.ArgumentParser, about: str) -> None:
    verb.add_argument(
        "--fleet", metavar="FILE", default="fleet.toml", help=f"{about} (default fleet.toml)"
    )
