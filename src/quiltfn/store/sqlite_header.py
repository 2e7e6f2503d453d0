"""What the database file and its write-ahead log say of themselves, read without SQLite.

Two numbers stand in the file's header. `application_id` is another one for each server that has
kept the file, and for each copy made by `quiltfn backup`. `user_version` counts transactions. Both
are in every page 1, so also in the log: with them a log is told from the log of another file.

SQLite's locks belong to the process, and closing a file gives all of them back: nothing here may
be called while this process has a connection to the database.
"""

import os
import struct
from pathlib import Path
from typing import NamedTuple

from quiltfn.store.directory import open_own

NUMBERS = 0x7FFF_FFFF  # Both are 31 bits, and the count begins again after the last.
MAGIC = b"SQLite format 3\0"
HEADER, LOG_HEADER, FRAME_HEADER = 100, 32, 24


class Numbers(NamedTuple):
    """`keeper`: whose file it is. `commit`: the transactions that are in it, counted."""

    keeper: int
    commit: int


def in_file(database: Path) -> Numbers | None:
    """Those of the file alone, without its log; None where it is no database."""
    opened = open_own(database, os.O_RDONLY)
    try:
        return _numbers(os.pread(opened, HEADER, 0))
    finally:
        os.close(opened)


def first_in_log(log: Path) -> Numbers | None:
    """Those of the first transaction in the log; None where there is no log or none in it."""
    try:
        opened = open_own(log, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        head = os.pread(opened, LOG_HEADER, 0)
        if len(head) < LOG_HEADER:
            return None
        (page_size,), salts, at = struct.unpack(">I", head[8:12]), head[16:24], LOG_HEADER
        # What follows the newest frames is of an earlier round through the file.
        while (frame := os.pread(opened, FRAME_HEADER, at))[8:16] == salts:
            if frame[:4] == b"\0\0\0\0":  # No page: a hole, which may be as long as one likes.
                return None
            if frame[:4] == b"\0\0\0\1":
                return _numbers(os.pread(opened, HEADER, at + FRAME_HEADER))
            at += FRAME_HEADER + page_size
        return None
    finally:
        os.close(opened)


def is_older(one: int, other: int) -> bool:
    """Whether `one` was counted before `other`."""
    return 0 < (other - one) & NUMBERS <= NUMBERS // 2


def following(count: int) -> int:
    return (count + 1) & NUMBERS


def _numbers(header: bytes) -> Numbers | None:
    if len(header) < HEADER or not header.startswith(MAGIC):
        return None
    commit, keeper = struct.unpack(">I4xI", header[60:72])
    return Numbers(keeper, commit)
