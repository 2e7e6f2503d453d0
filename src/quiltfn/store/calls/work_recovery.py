"""Work that earlier boots had claimed, handled at a start and when a node is taken over.

If the journal has the start of an attempt, the attempt is interrupted, and the function's policy
decides what follows. Without such a record, the work was not started and waits again if the
journal's spool is complete. The spool is complete after `kill -9`, but perhaps not after a restart
of the machine. If it may be incomplete, or if the work was claimed with `is_begun`, it is unknown
whether the work was started. The attempt then counts as interrupted, so that work with a single
attempt never runs twice.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace
from sqlalchemy import Connection, RowMapping

from quiltfn.base.ids import continue_behind, new_id
from quiltfn.model.end_cause import NODE_LOST, Interrupted
from quiltfn.model.invocation import FINAL, Invocation, Status
from quiltfn.model.work import outcome
from quiltfn.store.calls import outcomes, records
from quiltfn.store.calls.work import machine_boot_id
from quiltfn.store.database.nodes import Boot
from quiltfn.store.database.sql import run
from quiltfn.store.functions.policies import policy_of


class Why(NamedTuple):
    """The causes of ended invocations: `running` if the start was stored, `unknown` if they may
    have been started.
    """

    running: Interrupted
    unknown: Interrupted


SERVER_ENDED = Why(records.SERVER_ENDED, Interrupted("server_ended_unknown"))
TAKEN_OVER = Why(NODE_LOST, NODE_LOST)


class StartTime(msgspec.Struct, frozen=True):
    """The time of the server's start or of the take-over: for records, wall clock time in Unix
    seconds; for queues, trusted time in Unix milliseconds.
    """

    unix: int
    trusted_ms: int


def recover(
    connection: Connection,
    boot: Boot,
    now: StartTime,
    *,
    is_spool_whole: bool,
    why: Why = SERVER_ENDED,
) -> int:
    """Ends attempts and releases work, after the journal's records were stored; returns how many
    attempts it ended.

    `is_spool_whole`: no file of the journal was removed since the last server ended, and its
    records are stored.
    """
    ended = 0
    mine = {"epoch": boot.epoch, "alone": boot.is_alone, "node": boot.node_id}
    rows = run(connection, "claimed_before", mine).mappings().all()
    if rows:  # new ids must sort after all stored ids
        continue_behind(run(connection, "newest_id").scalar_one())
    for start in range(0, len(rows), records.STATEMENT_ROWS):
        some = rows[start : start + records.STATEMENT_ROWS]
        left = _recover_some(connection, now, some, why, is_spool_whole)
        records.upsert(connection, left, boot.epoch)
        ended += len(left)
    return ended


def _recover_some(
    connection: Connection,
    now: StartTime,
    rows: Sequence[RowMapping],
    why: Why,
    is_spool_whole: bool,
) -> list[Invocation]:
    """Releases work that waits again; returns the ends of work that may have been started."""
    machine = machine_boot_id()
    found = records.among(connection, [row["invocation_id"] for row in rows])
    over, waiting, ended = [], [], []
    for row in rows:
        record = found.get(row["invocation_id"])
        is_known = is_spool_whole and row["machine_boot_id"] == machine and not row["is_begun"]
        if record is None or record.status in FINAL:
            over.append((row["invocation_id"],))
        elif record.status is Status.QUEUED and is_known:
            waiting.append(
                {key: row[key] for key in ("invocation_id", "epoch")}
                | {"node": row["node_id"], "due": None}
            )
        else:
            ended.append(_interrupted(connection, row, record, now, why))
    outcomes.many(connection, "remove_work", over)
    if waiting:
        run(connection, "release_work", waiting)
    return ended


def _interrupted(
    connection: Connection, row: RowMapping, record: Invocation, now: StartTime, why: Why
) -> Invocation:
    """The record of the attempt, with the outcome by its function's policy."""
    cause = why.running if record.status is Status.RUNNING else why.unknown
    ended = replace(
        record,
        attempt=row["attempts"],
        execution_node_id=row["node_id"],
        status=Status.INTERRUPTED,
        ended_at=max(now.unix, record.started_at or 0),
        error_message=cause.sentence,
        end_cause=cause,
    )
    policy = policy_of(connection, record.function_id)
    decided = outcome(
        policy,
        ended,
        now.trusted_ms,
        row["expires_at_ms"],
        random.random(),
        new_id,
    )
    return replace(ended, outcome=decided)
