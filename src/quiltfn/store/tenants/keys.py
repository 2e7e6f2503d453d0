"""API keys in the database. A server and a tool beside it may both change them."""

from collections.abc import Sequence

from msgspec.structs import replace
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    exc,
    func,
    insert,
    or_,
    select,
    update,
)

from quiltfn.model.access import KEYS_MAX, TENANT_KEYS_MAX, Key, Scope
from quiltfn.model.cursors import BEFORE_EVERY_ID, from_cursor, to_cursor
from quiltfn.model.errors import CapacityFull, Conflict, NotFound, RateLimited
from quiltfn.ports import ChangeKind, Page
from quiltfn.store.database import changes, tables
from quiltfn.store.database.database import Database


class SqlKeys:
    """API keys, including revoked and expired ones. Raises `StoreUnavailable`.

    `quiltfn keys` changes keys beside a running server, which notices changes by `revision`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def change_token(self) -> object:
        """A value that differs after every change by any process, except on a full disk.

        Reading it takes a microsecond, does not query the database and never raises.
        """
        return self._database.directory.keys_token()

    async def revision(self) -> int:
        """A number that increases with every change by any process."""
        query = select(tables.key_revision.c.number)
        return await self._database.poll(lambda c: int(c.execute(query).scalar_one()))

    async def load(self) -> Sequence[Key]:
        """All keys, oldest first."""
        columns = tables.api_key.c
        query = select(tables.api_key).order_by(columns.created_at, columns.id)
        return await self._database.read(lambda c: tables.read_all(c, query, Key))

    async def page(self, tenant_id: str | None, limit: int, cursor: str | None) -> Page[Key]:
        """Up to `limit` keys of the tenant, oldest first; None: of all tenants. Raises
        `Unprocessable` for an invalid cursor.
        """
        # Ids are UUIDv7, so their order is chronological.
        columns, after = tables.api_key.c, from_cursor(cursor, BEFORE_EVERY_ID)
        query = select(tables.api_key).where(columns.id > after)
        if tenant_id is not None:
            query = query.where(columns.tenant_id == tenant_id)
        query = query.order_by(columns.id).limit(limit + 1)
        found = await self._database.read(lambda c: tables.read_all(c, query, Key))
        items = found[:limit]
        return Page(items, to_cursor(items[-1].id) if len(found) > limit else None)

    async def add(self, key: Key, first_scope: Scope | None = None) -> Key:
        """Stores a new key and returns it. The very first key, exactly one of several simultaneous
        ones, gets `first_scope`, if given. Raises `RateLimited` if the tenant has `TENANT_KEYS_MAX`
        valid keys, and `CapacityFull` if all tenants have `KEYS_MAX`. Keeps as many invalid keys,
        the newest ones. Raises `Conflict` if there is a key with its id or prefix.
        """
        any_key = select(tables.api_key.c.id).limit(1)

        def work(connection: Connection) -> Key:
            # The transaction has the write lock from its start, so no other writer intervenes.
            kept = key
            if first_scope is not None and connection.execute(any_key).first() is None:
                kept = replace(key, scope=first_scope)
            make_room(connection, key)
            connection.execute(insert(tables.api_key), tables.row_of(kept))
            count_up(connection, key)
            return kept

        try:
            return await self._database.write(work, self._database.directory.mark_keys_changed)
        except exc.IntegrityError as error:
            raise Conflict("there is a key of this id or prefix already; make another") from error

    async def revoke(self, key: Key, now: int) -> Key:
        """Permanently revokes a key and returns it as stored. Repetitions change nothing. Raises
        `NotFound` for an unknown key.
        """
        this = tables.api_key.c.id == key.id
        change = update(tables.api_key).where(this, tables.api_key.c.revoked_at.is_(None))

        def work(connection: Connection) -> Key:
            if connection.execute(change.values(revoked_at=now)).rowcount:
                count_up(connection, key)
            revoked = tables.read_one(connection, select(tables.api_key).where(this), Key)
            if revoked is None:
                raise NotFound("there is no key with this id")
            return revoked

        # `frees`, because a revocation must succeed on a full disk, too.
        return await self._database.write(
            work, self._database.directory.mark_keys_changed, frees=True
        )


def make_room(connection: Connection, key: Key) -> None:
    """Checks the limits for one more key, and removes the oldest invalid keys beyond them. Raises
    `RateLimited` and `CapacityFull`.
    """
    columns = tables.api_key.c
    unexpired = or_(columns.expires_at.is_(None), columns.expires_at > key.created_at)
    is_valid = and_(columns.revoked_at.is_(None), unexpired)
    of_tenant = columns.tenant_id == key.tenant_id
    hint = "revoke one that is not needed"
    if _count(connection, is_valid, of_tenant) >= TENANT_KEYS_MAX:
        sentence = f"the tenant has {TENANT_KEYS_MAX} valid keys, its limit"
        raise RateLimited(sentence, hint=hint, retry_after=60)
    if _count(connection, is_valid) >= KEYS_MAX:
        raise CapacityFull(f"there are {KEYS_MAX} valid keys, the limit", hint=hint, retry_after=60)
    for most, whose in ((TENANT_KEYS_MAX, [of_tenant]), (KEYS_MAX, [])):
        ended = select(columns.id).where(~is_valid, *whose).order_by(columns.id.desc())
        newest_to_forget = connection.execute(ended.offset(most).limit(1)).scalar()
        if newest_to_forget is not None:
            gone = delete(tables.api_key).where(~is_valid, columns.id <= newest_to_forget, *whose)
            connection.execute(gone)


def _count(connection: Connection, *conditions: ColumnElement[bool]) -> int:
    query = select(func.count()).select_from(tables.api_key).where(*conditions)
    return int(connection.execute(query).scalar_one())


def count_up(connection: Connection, key: Key) -> None:
    """Increases the revision and records the change of this key."""
    connection.execute(update(tables.key_revision).values(number=tables.key_revision.c.number + 1))
    changes.record(connection, ChangeKind.KEY, key.tenant_id, key.id)
