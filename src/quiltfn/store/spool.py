"""The spool: records that the database does not have yet, one line each, in a file that only grows.

A line is `checksum record`, the record as JSON. Lines rather than length-prefixed frames, because
a line finds its own end: JSON has no raw newline, so after damage anywhere the next record is
found again, and damage (refused) is told apart from a write that was cut short by the end of the
process (dropped, for it was never acknowledged). And a person can read it, but for the output of
calls, which is bytes and stands there as base64.

One `write` a record and no sync: the page cache outlives `kill -9`; what a power cut may take is
bounded by the group commit.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from zlib import crc32

import msgspec

from quiltfn.model.invocation import FINAL, Invocation, Status
from quiltfn.store.directory import StoreBroken, open_own

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Invocation).decode


# A record with both outputs as long as settings allow, in base64, is shorter.
LINE_MAX_BYTES = 192 * 1024 * 1024


class _Older(msgspec.Struct):
    """Of a line that an older server wrote: output was text then."""

    stdout: str = ""
    stderr: str = ""


decode_older = msgspec.json.Decoder(_Older).decode

# Of two records of one attempt the later one counts, in whichever segment it is.
RANK = {status: 2 if status in FINAL else 0 for status in Status} | {Status.RUNNING: 1}


class Spool:
    """One segment. `size` in bytes, as far as it holds whole records."""

    def __init__(
        self, path: Path, holds: Callable[[str, bool], None] = lambda _name, _anything: None
    ) -> None:
        """`holds` is told when the segment gets its first record, and before it is emptied."""
        self.path, self._holds = path, holds
        self._file = open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.size = os.fstat(self._file).st_size
        self._is_torn = False
        # When the write that is under way began; 0: none is. For another thread to look at.
        self.writing_since = 0.0

    def append(self, record: Invocation) -> None:
        """Writes one record, or raises `OSError` and leaves what was there."""
        self.writing_since = monotonic()
        try:
            self._append(to_line(record))
        finally:
            self.writing_since = 0.0

    def _append(self, line: bytes) -> None:
        if self._is_torn:
            self._cut()
        try:
            written = os.write(self._file, line)
        except OSError:
            self._is_torn = True  # It should have written nothing; that is made sure of.
            raise
        if written != len(line):
            self._is_torn = True
            self._cut()
            raise OSError(f"only {written} of {len(line)} bytes could be written")
        if self.size == 0:
            self._holds(self.path.name, True)
        self.size += written

    def read(self) -> list[Invocation]:
        """Every whole record. Raises `StoreBroken` for anything but a torn last one."""
        with open(os.dup(self._file), "rb") as file:
            file.seek(0)
            return from_lines(file.read(), self.path)

    def clear(self) -> None:
        """Empties the segment: all of it is in the database."""
        self._holds(self.path.name, False)
        os.ftruncate(self._file, 0)
        self.size, self._is_torn = 0, False

    def close(self) -> None:
        """Gives the file back; whatever is written later fails."""
        os.close(self._file)
        self._file = -1

    def _cut(self) -> None:
        os.ftruncate(self._file, self.size)
        self._is_torn = False


def to_line(record: Invocation) -> bytes:
    """The record as it stands in the spool."""
    body = encode(record)
    return b"%08x %b\n" % (crc32(body), body)


def from_lines(data: bytes, path: Path) -> list[Invocation]:
    """The records of a segment's content; see `Spool.read`."""
    # After a power cut a file may have grown without its content: zeros at the end.
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
    whole = from_line(last)  # Only its line end is missing.
    return [*records, whole] if whole else records


def from_line(line: bytes) -> Invocation | None:
    """The record, or None if the line is not as it was written."""
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
    """The last word on each call, by its id."""
    found: dict[str, Invocation] = {}
    for record in records:
        known = found.get(record.invocation_id)
        if known is None or _order(record) >= _order(known):
            found[record.invocation_id] = record
    return found
