"""The spool: an append-only file with the records that the database lacks.

A line is `checksum record`, the record as JSON. JSON has no raw newline, so the next record can be
found after damage. So damage (refused) differs from a write that the end of the process cut short
(dropped, since it was never acknowledged). People can read the file, except for output, which is
base64.

Each record costs one `write` and no sync. The page cache survives `kill -9`; a power cut can lose
records written since the last group commit.
"""

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from zlib import crc32

import msgspec

from quiltfn.model.invocation import FINAL, Invocation, Status
from quiltfn.store.database.directory import StoreBroken, open_own

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Invocation).decode


# Longer than a record with two outputs of the maximum size in settings, in base64.
LINE_MAX_BYTES = 192 * 1024 * 1024


class _Older(msgspec.Struct):
    """A line of a release that stored output as text."""

    stdout: str = ""
    stderr: str = ""


decode_older = msgspec.json.Decoder(_Older).decode

# Later records of an attempt have a higher rank; the segment doesn't matter.
RANK = {status: 2 if status in FINAL else 0 for status in Status} | {Status.RUNNING: 1}


class Spool:
    """One segment. `size`: the bytes of complete records."""

    def __init__(
        self, path: Path, holds: Callable[[str, bool], None] = lambda _name, _anything: None
    ) -> None:
        """`holds` is called when the segment gets its first record, and before it is emptied."""
        self.path, self._holds = path, holds
        self._file = open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.size = os.fstat(self._file).st_size
        self._is_torn = False
        # When the current write began; 0 if there is none. Another thread reads this.
        self.writing_since = 0.0

    def append(self, record: Invocation) -> None:
        """Writes one record. If it raises `OSError`, the complete records are as before."""
        line = to_line(record)
        self.writing_since = monotonic()
        try:
            if self._is_torn:
                self._cut()
            # a failed write may leave a part of the line, which the next write removes
            self._is_torn = True
            written = os.write(self._file, line)
            if written != len(line):
                self._cut()
                why = f"No space left on device: {written} of {len(line)} bytes could be written"
                raise OSError(errno.ENOSPC, why)
            self._is_torn = False
            if self.size == 0:
                self._holds(self.path.name, True)
            self.size += written
        finally:
            self.writing_since = 0.0

    def read(self) -> list[Invocation]:
        """All complete records, without an incomplete last one. Other damage raises
        `StoreBroken`.
        """
        with open(os.dup(self._file), "rb") as file:
            file.seek(0)
            return from_lines(file.read(), self.path)

    def clear(self) -> None:
        """Empties the segment once all its records are committed."""
        self._holds(self.path.name, False)
        os.ftruncate(self._file, 0)
        self.size, self._is_torn = 0, False

    def close(self) -> None:
        """Closes the file. Later writes fail."""
        os.close(self._file)
        self._file = -1

    def _cut(self) -> None:
        os.ftruncate(self._file, self.size)
        self._is_torn = False


def to_line(record: Invocation) -> bytes:
    """The line of a record."""
    body = encode(record)
    return b"%08x %b\n" % (crc32(body), body)


def from_lines(data: bytes, path: Path) -> list[Invocation]:
    """The records of a segment's content; see `Spool.read`."""
    # After a power cut a file may end in zeros, if its length was stored but its content wasn't.
    *lines, last = data.rstrip(b"\0").split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        record = from_line(line)
        if record is None:
            raise StoreBroken(
                f"{path} is damaged in line {number} of {len(lines)}. It holds calls that are not "
                "in the database yet; move it away to start without them."
            )
        records.append(record)
    whole = from_line(last)  # only its newline is missing
    return [*records, whole] if whole else records


def from_line(line: bytes) -> Invocation | None:
    """The record, or None if the line is damaged."""
    body = line[9:]
    if line[:9] != b"%08x " % crc32(body):
        return None
    try:
        record = decode(body)
        if b'"stdout":' not in body and b'"stderr":' not in body:
            return record
        older = decode_older(body)
    except msgspec.MsgspecError:
        return None
    return msgspec.structs.replace(
        record, stdout=older.stdout.encode(), stderr=older.stderr.encode()
    )


def _order(record: Invocation) -> tuple[int, int]:
    return record.attempt, RANK[record.status]


def latest(records: Iterable[Invocation]) -> dict[str, Invocation]:
    """The newest record of each invocation, by its id."""
    found: dict[str, Invocation] = {}
    for record in records:
        known = found.get(record.invocation_id)
        if known is None or _order(record) >= _order(known):
            found[record.invocation_id] = record
    return found
