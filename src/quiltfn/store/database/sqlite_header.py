"""Reads two numbers from the headers of the database and its write-ahead log, without SQLite.

`application_id` is a new random number for each start of a server and for each copy that
`quiltfn backup` makes. `user_version` counts transactions. Both are in page 1, which is also in the
log: so they show whether a log belongs to a file.

SQLite's locks belong to the process, and closing any descriptor of a file releases all of them. So
`in_file` and `first_in_log` may not be called while this process has a connection to the database.
"""

import os
import struct
from pathlib import Path
from typing import NamedTuple

from quiltfn.store.database.directory import open_own

NUMBERS = 0x7FFF_FFFF  # the maximum of both; after it, the count continues at 0
MAGIC = b"SQLite format 3\0"
HEADER, LOG_HEADER, FRAME_HEADER = 100, 32, 24


class Numbers(NamedTuple):
    """`owner`: the `application_id`. `commit`: the `user_version`, which counts transactions."""

    owner: int
    commit: int


def in_file(database: Path) -> Numbers | None:
    """The numbers of the file, without its log; None if it is not a database."""
    opened = open_own(database, os.O_RDONLY)
    try:
        return _numbers(os.pread(opened, HEADER, 0))
    finally:
        os.close(opened)


def first_in_log(log: Path) -> Numbers | None:
    """The numbers of the first transaction in the log; None if there is no log or no
    transaction.
    """
    try:
        opened = open_own(log, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        head = os.pread(opened, LOG_HEADER, 0)
        if len(head) < LOG_HEADER:
            return None
        (page_size,), salts, at = struct.unpack(">I", head[8:12]), head[16:24], LOG_HEADER
        # Frames with other salts are left over from an earlier use of the log.
        while (frame := os.pread(opened, FRAME_HEADER, at))[8:16] == salts:
            if frame[:4] == b"\0\0\0\0":  # no page number: a hole in the file, of any length
                return None
            if frame[:4] == b"\0\0\0\1":
                return _numbers(os.pread(opened, HEADER, at + FRAME_HEADER))
            at += FRAME_HEADER + page_size
        return None
    finally:
        os.close(opened)


def is_older(number: int, other: int) -> bool:
    """Whether `number` comes before `other`, even if the count has restarted at 0 in between."""
    return 0 < (other - number) & NUMBERS <= NUMBERS // 2


def following(count: int) -> int:
    return (count + 1) & NUMBERS


def _numbers(header: bytes) -> Numbers | None:
    if len(header) < HEADER or not header.startswith(MAGIC):
        return None
    commit, owner = struct.unpack(">I4xI", header[60:72])
    return Numbers(owner, commit)
