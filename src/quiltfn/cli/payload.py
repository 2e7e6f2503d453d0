"""The payload of an invocation: from options, a file, or standard input."""

import os
import stat
import sys
from pathlib import Path

from quiltfn.cli.parsing import BadParameter

# How long to wait for a pipe, which may have no writer, and the most bytes read from it.
SILENCE_S = 5.0
PIPED_MAX_BYTES = 64 * 1024 * 1024
CHUNK, READ_AHEAD = 1 << 16, 4
STANDARD_INPUT = "standard input"


def of_call(text: str | None, path: Path | None) -> str | None:
    """The payload from the options, else from standard input. Raises `BadParameter`."""
    return piped() if text is None and path is None else of_options(text, path)


def of_options(text: str | None, path: Path | None) -> str | None:
    """The payload from one of the two options; None without either. Raises `BadParameter`."""
    if path is None:
        return text
    if text is not None:
        raise BadParameter("give --payload or --payload-file, not both")
    try:
        # Bytes, not text: reading text would rewrite line ends.
        if str(path) == "-":
            return _text(sys.stdin.buffer.read(), STANDARD_INPUT)
        return _text(path.read_bytes(), str(path))
    except OSError as error:
        raise BadParameter(f"{path} cannot be read: {error.strerror}") from None


def piped() -> str | None:
    """The content of standard input if that is a pipe, a socket or a file. Otherwise None: for a
    terminal, /dev/null, closed input, or a pipe that ends without a byte.

    An inherited pipe may have a writer that never writes. After a timeout that is an error, not an
    empty payload. Raises `BadParameter`.
    """
    try:
        number = sys.stdin.fileno()
        mode = os.fstat(number).st_mode
    except (AttributeError, ValueError, OSError):  # None, closed, or not a file
        return None
    if stat.S_ISREG(mode):
        content = sys.stdin.buffer.read()
    elif stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        content = _read_pipe(number)
    else:
        return None
    return _text(content, STANDARD_INPUT) if content else None


def _read_pipe(number: int) -> bytes:
    import queue  # noqa: PLC0415 — for a pipe alone
    import threading  # noqa: PLC0415

    pieces, content = queue.Queue[bytes | OSError](READ_AHEAD), bytearray()

    def read() -> None:
        piece: bytes | OSError = b"begun"
        while piece and not isinstance(piece, OSError):
            try:
                piece = os.read(number, CHUNK)
            except OSError as error:
                piece = error
            pieces.put(piece)

    # Not every system can tell whether a pipe has data.
    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            piece = pieces.get(timeout=SILENCE_S)
        except queue.Empty:
            raise BadParameter(
                "standard input is a pipe that was neither written to nor closed for "
                f"{SILENCE_S:g} s; to wait longer: --payload-file -, for no payload: </dev/null"
            ) from None
        if isinstance(piece, OSError):
            raise BadParameter(f"{STANDARD_INPUT} cannot be read: {piece.strerror}")
        content += piece
        if not piece:
            return bytes(content)
        if len(content) > PIPED_MAX_BYTES:
            raise BadParameter(
                f"standard input has more than {PIPED_MAX_BYTES >> 20} MiB, which no server "
                "accepts as a payload"
            )


def _text(content: bytes, origin: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadParameter(
            f"{origin} is not UTF-8, but a payload must be; send bytes as base64: "
            "base64 -w0 FILE | quiltfn invoke NAME"
        ) from None
