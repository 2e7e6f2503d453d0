"""`quiltfn store copy FROM TO`: copies a server's store between a data directory and PostgreSQL."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quiltfn.base.setting_files import BadSetting, read_secret
from quiltfn.operator.outcome import run_and_report
from quiltfn.operator.owner import become_owner
from quiltfn.server.opened_store import NO_DRIVER
from quiltfn.settings import check_store, password_in
from quiltfn.store.backup import copy, copy_sqlite
from quiltfn.store.backup.copy import Source, Target

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def is_url(text: str) -> bool:
    """Whether a FROM or TO is the URL of a database."""
    return "://" in text


def name_of(text: str) -> str:
    """Returns the name of a FROM or TO for messages."""
    return text if is_url(text) else str(Path(text).absolute())


class Address:
    """A FROM or TO from the command line. Raises `BadSetting`."""

    def __init__(self, option: str, text: str, password_file: str | None) -> None:
        self.is_url, self.name = is_url(text), name_of(text)
        self.password: str | None = None
        if self.is_url:
            check_store(option, text)
        if password_file is not None:
            if not self.is_url:
                raise BadSetting(f"{option} is a directory, for which there is no password")
            file = f"the password file of {option}"
            self.password = password_in(file, read_secret(file, Path(password_file)))

    def as_source(self) -> contextlib.AbstractContextManager[Source]:
        if not self.is_url:
            return copy_sqlite.source(Path(self.name))
        opened: contextlib.AbstractContextManager[Source]
        opened = _postgresql().source(self.name, self.password)
        return opened

    def as_target(self) -> contextlib.AbstractContextManager[Target]:
        if not self.is_url:
            return copy_sqlite.target(Path(self.name))
        opened: contextlib.AbstractContextManager[Target]
        opened = _postgresql().target(self.name, self.password)
        return opened


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    given = parser().parse_args(arguments)
    with ending_at_a_signal(name_of(given.target)):
        return run_and_report(lambda: copied(given))


@contextlib.contextmanager
def ending_at_a_signal(target: str) -> Iterator[None]:
    """Makes signals remove an unfinished copy and end the process at once. No exception is raised,
    since a database driver might replace it. A database rolls back an unfinished copy by itself.
    """

    def end(number: int, _frame: object) -> None:
        if not is_url(target):
            copy_sqlite.remove_unfinished(Path(target))
        os.write(sys.stderr.fileno(), f"quiltfn: stopped; {target} is unchanged\n".encode())
        os._exit(128 + number)

    former = {number: signal.getsignal(number) for number in ENDING}
    heeded = [number for number, handler in former.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, former[number])


def copied(given: argparse.Namespace) -> str:
    """Copies; returns a summary. Raises `BadSetting`, `StoreBroken` and `OSError`."""
    source = Address("FROM", given.source, given.from_password_file)
    target = Address("TO", given.target, given.to_password_file)
    check_addresses(source, target)
    return perform(source, target, given.data_dir and Path(given.data_dir))


def check_addresses(source: Address, target: Address) -> None:
    """Raises `BadSetting` if both are directories."""
    if not (source.is_url or target.is_url):
        raise BadSetting(
            "FROM or TO must be the URL of a database, postgresql://…; from one data directory to "
            "another use quiltfn backup and quiltfn restore"
        )


def perform(source: Address, target: Address, data_dir: Path | None) -> str:
    """Copies. `data_dir`: the data directory of the server that uses the source, if the source is
    a database.
    """
    directories = [Path(one.name) for one in (source, target) if not one.is_url]
    if source.is_url:
        directories += [data_dir.absolute()] if data_dir and data_dir not in directories else []
        if not directories:
            print(
                "quiltfn: records that a killed server left in its data directory are not found; "
                "to copy them, name the directory with --data-dir",
                file=sys.stderr,
            )
    for directory in directories:
        become_owner(directory)
    if source.is_url and data_dir:
        copy_sqlite.check_spool(data_dir)
    with source.as_source() as origin, target.as_target() as goal:
        arrived: dict[str, int] = {}
        copy.copy(origin, goal, arrived.__setitem__)
        # The copy is committed next; ignore Ctrl-C, so that the outcome stays clear.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    lines = [f"{name:<20}{rows:>12}" for name, rows in sorted(arrived.items()) if rows]
    whole = f"copied and verified: {sum(arrived.values())} rows of {len(arrived)} tables"
    return "\n".join([*lines, whole])


def _postgresql() -> Any:
    """Imports the module for databases. Raises `BadSetting` if its driver is not installed."""
    try:
        from quiltfn.store.backup import copy_postgresql  # noqa: PLC0415 — it needs the extra
    except ImportError as error:
        raise BadSetting(NO_DRIVER.format(error=error)) from None
    return copy_postgresql


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(
        prog="quiltfn store", description="Move the data that a server stores."
    )
    verbs = it.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    verb = verbs.add_parser(
        "copy",
        help="copy everything from a data directory to a PostgreSQL database, or back",
        description="Copy functions, keys, invocation records, asynchronous invocations and all "
        "other data that a server stores, and verify the copy. No server may use FROM "
        "or TO, and TO must be empty; if the copy fails, TO stays empty. The files of "
        "runtimes (images) are not copied.",
        epilog="exit codes: 0 copied and verified · 1 a file cannot be read · 74 FROM is in use, "
        "damaged or was not shut down properly, or TO is not empty · 78 an argument is "
        "wrong · "
        "130 stopped by Ctrl-C",
    )
    where = "a data directory, or postgresql://USER@HOST/DATABASE"
    verb.add_argument("source", metavar="FROM", help=where)
    verb.add_argument("target", metavar="TO", help="likewise; empty or not created yet")
    for name in ("from", "to"):
        about = f"file with the password of the database {name.upper()}"
        verb.add_argument(f"--{name}-password-file", metavar="FILE", help=about)
    verb.add_argument(
        "--data-dir",
        metavar="DIRECTORY",
        help="if FROM is a database: its server's data directory, which may have records that a "
        "killed server left",
    )
    return it
