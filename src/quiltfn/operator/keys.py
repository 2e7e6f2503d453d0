"""`quiltfn keys`: API keys in the data directory or PostgreSQL, with or without a running server.

Modules for databases load slowly, so they are imported only after a database was found.
"""

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltfn.base.clock import SystemClock
from quiltfn.base.ids import continue_behind, new_id
from quiltfn.base.setting_files import BadSetting, read_private
from quiltfn.model.access import Key, Scope
from quiltfn.model.audit import AuditEntry
from quiltfn.model.errors import QuiltfnError, Unprocessable
from quiltfn.settings import Settings, from_everywhere, store_secret

if TYPE_CHECKING:
    from quiltfn.store import SqlAudit, SqlKeys

FINE, REFUSED, STORE_BROKEN, BAD_SETTING = 0, 1, 74, 78
CREATED, DONE = 201, 204  # the status codes of the API for the same changes
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def main(arguments: Sequence[str]) -> int:
    """Creates, lists or revokes keys; returns the exit code."""
    given = parser().parse_args(arguments)
    options = ("data_dir", "store", "store_password_file", "fleet")
    secret: bytes | str | None
    try:
        chosen = from_everywhere({name: getattr(given, name) for name in options})
        if chosen.fleet == Path():
            secret = store_secret(chosen)
        else:
            store, secret = fleet_store(chosen.fleet)
            chosen = chosen.replace(store=store, fleet=Path())
    except BadSetting as error:
        return complain(error, BAD_SETTING)
    data_dir = chosen.data_dir
    is_named = given.data_dir is not None or data_dir != Path("data").absolute()
    # Also False if the directory is unreadable.
    is_there = chosen.store or os.path.exists(data_dir / "quiltfn.db")
    if not is_there and not (given.verb == "create" and is_named):
        sentence = f"There is no database in {data_dir}; name it with --data-dir."
        return complain(sentence, STORE_BROKEN)

    import asyncio  # noqa: PLC0415 — see above

    from quiltfn.operator.owner import become_owner  # noqa: PLC0415
    from quiltfn.store import StoreBroken  # noqa: PLC0415

    try:
        with directory_beside(chosen) as chosen:
            become_owner(chosen.data_dir)
            return asyncio.run(run(given, chosen, secret))
    except BadSetting as error:
        return complain(error, BAD_SETTING)
    except StoreBroken as error:
        return complain(error, STORE_BROKEN)
    except QuiltfnError as error:
        return complain(error, REFUSED)


def fleet_store(path: Path) -> tuple[str, str]:
    """Returns URL and password of a fleet's database, from the file of the fleet or of a node.
    Raises `BadSetting`.
    """
    from quiltfn.fleet import files  # noqa: PLC0415 — see above

    text = read_private("fleet", path)
    found: files.FleetFile | files.NodeFile
    try:
        found = files.parse(files.NodeFile, text)
    except BadSetting:
        found = files.parse(files.FleetFile, text)
    return found.store, found.store_password


@contextlib.contextmanager
def directory_beside(chosen: Settings) -> Iterator[Settings]:
    """Yields the settings. If the keys are in PostgreSQL and no server has used the data directory
    on this machine, a temporary directory replaces the data directory.
    """
    if not chosen.store or (chosen.data_dir / "quiltfn.lock").exists():
        yield chosen
        return
    with tempfile.TemporaryDirectory(prefix="quiltfn-keys-") as path:
        yield chosen.replace(data_dir=Path(path))


async def run(given: argparse.Namespace, chosen: Settings, secret: str | None) -> int:
    """Runs one command on the store in the settings."""
    from quiltfn.server.opened_store import opened_store  # noqa: PLC0415
    from quiltfn.store import SqlAudit, SqlClockStore, SqlKeys  # noqa: PLC0415

    async with contextlib.AsyncExitStack() as stack:
        with contextlib.redirect_stdout(sys.stderr):  # keeps log messages out of the output
            opened = opened_store(chosen, secret, alone=False)
            store = await stack.enter_async_context(opened)
        notes, clock = SqlClockStore(store.database), SystemClock()
        clock.resume(await notes.load())
        if newest := await notes.newest_id():
            continue_behind(newest)
        await perform(given, SqlKeys(store.database), SqlAudit(store.database), clock)
    return FINE


async def perform(
    given: argparse.Namespace, keys: "SqlKeys", audit: "SqlAudit", clock: SystemClock
) -> None:
    import asyncio  # noqa: PLC0415

    from quiltfn.tenants.access import LOOK_EVERY_S, make_key, revoke_key  # noqa: PLC0415

    async def finish(key: Key, action: str, status: int) -> None:
        await audit.append(entry(key, action, status, clock))
        await asyncio.sleep(LOOK_EVERY_S)  # then a server without keys has noticed its first one

    as_json = given.output == "json"
    if given.verb == "create":
        scope = Scope(given.scope) if given.scope else None
        expires = seconds(given.expires) if given.expires else None
        key, text = await make_key(keys, clock, given.tenant, scope, expires, given.label)
        await finish(key, "key.create", CREATED)
        if as_json:
            print(json.dumps(fields_of(key) | {"key": text}))
        else:
            print(text)
            print(f"{line(key)}\nThis is the only time the key is shown.", file=sys.stderr)
    elif given.verb == "list":
        found = await keys.load()
        if as_json:
            print(json.dumps({"keys": [fields_of(key) for key in found]}))
        else:
            print("\n".join(line(key) for key in found) or "no keys")
    else:
        key = await revoke_key(keys, clock, given.id)
        await finish(key, "key.revoke", DONE)
        print(json.dumps(fields_of(key)) if as_json else f"revoked {key.id}")


def entry(key: Key, action: str, status: int, clock: SystemClock) -> AuditEntry:
    """Returns the audit entry of a change that was made without a server."""
    return AuditEntry(
        id=new_id(),
        at=int(clock.timestamp()),
        tenant_id=key.tenant_id,
        credential="cli",
        action=action,
        object_id=key.id,
        status=status,
        error_code=None,
        address="local",
        request_id=new_id(),
    )


def seconds(text: str) -> int:
    """Parses a duration such as 30d, 12h, 15m or 90s. Raises `Unprocessable`."""
    match = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if match is None:
        raise Unprocessable.field("expires", "a number followed by s, m, h or d", text, "30d")
    return int(match[1]) * UNITS_S[match[2]]


def fields_of(key: Key) -> dict[str, Any]:
    """Returns the fields of a key without its digest."""
    names = ("id", "tenant_id", "scope", "prefix", "created_at", "expires_at", "revoked_at")
    return {name: getattr(key, name) for name in (*names, "label")}


def line(key: Key) -> str:
    """Returns a key as text for people."""
    ends = "revoked" if key.revoked_at else f"expires {day(key.expires_at)}"
    # Escaped, since tenants choose labels, and an administrator's terminal shows them.
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in key.label or "")
    called = f"  {shown}" if shown else ""
    return f"{key.id}  {key.tenant_id}  {key.scope}  quilt_sk_{key.prefix}_…  {ends}{called}"


def day(at: int | None) -> str:
    return "never" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def complain(error: Exception | str, code: int) -> int:
    print(f"quiltfn: {error}", file=sys.stderr)
    return code


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(
        prog="quiltfn keys", description="API keys in the data directory of a server."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--data-dir", help="the server's data directory (default ./data, if it exists)"
    )
    shared.add_argument("--store", help="or the database of a server with its state in PostgreSQL")
    shared.add_argument("--store-password-file", help="file with the password of that database")
    shared.add_argument("--fleet", help="or the file of a fleet or of one of its nodes")
    shared.add_argument("--output", "-o", choices=["table", "json"], default="table")
    verbs = it.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    create = verbs.add_parser(
        "create", parents=[shared], help="create a key; it is shown only once"
    )
    create.add_argument("--tenant", default="default", help="tenant of the key (default: default)")
    create.add_argument(
        "--scope",
        choices=list(Scope),
        help="scope (default: operator for the first key, write for later ones)",
    )
    create.add_argument("--expires", help="lifetime, such as 30d, 12h or 90s (default: unlimited)")
    create.add_argument("--label", help="label, such as 'nightly build'")
    verbs.add_parser("list", parents=[shared], help="list all keys")
    revoke = verbs.add_parser("revoke", parents=[shared], help="permanently revoke a key")
    revoke.add_argument("id", help="key id from list")
    return it
