"""The store that the settings name: SQLite in the data directory, or PostgreSQL."""

from contextlib import AbstractAsyncContextManager

from quiltfn.base.setting_files import BadSetting
from quiltfn.settings import Settings, password_in
from quiltfn.store import SqlStore, StoreBroken, open_sqlite

NO_DRIVER = "the PostgreSQL driver is not installed; install quiltfn[postgresql] ({error})"


def opened_store(
    chosen: Settings,
    secret: bytes | str | None,
    *,
    node_id: str = "",
    alone: bool = True,
    fleet_id: str = "",
) -> AbstractAsyncContextManager[SqlStore]:
    """Open the store, as `open_sqlite` does. `secret`: the contents of `store_password_file`.
    `fleet_id`: the fleet that this server belongs to.

    Raises `BadSetting`, and on entering the context `StoreBroken`.
    """
    if not chosen.store:
        return open_sqlite(chosen.data_dir, node_id=node_id, alone=alone)
    try:
        # Imported late: an optional extra that takes some megabytes.
        from quiltfn.store.opening_postgresql import open_as_node, open_postgresql  # noqa: PLC0415
    except ImportError as error:
        raise BadSetting(NO_DRIVER.format(error=error)) from None
    password = _password(secret)
    old = chosen.data_dir / "quiltfn.db"
    if node_id and old.exists():
        import structlog  # noqa: PLC0415 — other commands do not need it

        structlog.get_logger("quiltfn.store").warning(
            f"{old} is not used, since state is in PostgreSQL: move it away; otherwise a start "
            "without the setting store uses its old content"
        )
    if fleet_id:
        return open_as_node(
            chosen.store, chosen.data_dir, password, node_id=node_id, fleet_id=fleet_id
        )
    return open_postgresql(
        chosen.store, chosen.data_dir, node_id=node_id, alone=alone, password=password
    )


def version_of(chosen: Settings, secret: bytes | str | None) -> str:
    """The version of the PostgreSQL server that the settings name, such as 17.2.

    Raises `BadSetting`, and `StoreBroken` if it does not respond.
    """
    try:
        from quiltfn.store.database import postgres_connection as postgres  # noqa: PLC0415 — as above
    except ImportError as error:
        raise BadSetting(NO_DRIVER.format(error=error)) from None
    try:
        with postgres.engine(chosen.store, _password(secret)).connect() as connection:
            return str(postgres.run_alone(connection, "SHOW server_version")[0][0])
    except Exception as error:
        if not postgres.is_of_database(error):
            raise
        raise StoreBroken(postgres.reason_of(error)) from error


def _password(secret: bytes | str | None) -> str | None:
    text = secret.decode("utf-8", "replace") if isinstance(secret, bytes) else secret
    return None if text is None else password_in("store_password_file", text)
