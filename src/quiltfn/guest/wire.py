"""The frames between host and guest: bytes in, events out.

Rule 1: nothing here uses a socket, a clock or a log; the same bytes give the same events however
they were cut. Rule 2: what breaks a rule of `docs/reference/guest-protocol.md` raises `WireError`
and nothing else, in both directions, and a decoder that has raised cannot be used any more. Rule 3:
the owner of the socket judges whose turn it is and whether a nonce is the awaited one.

Every call passes here. One `feed` usually holds all frames of a call and is parsed in place. Events
are not frozen, since making a frozen one takes half as long again.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from struct import Struct
from typing import Final, Literal

PROTOCOL_VERSION: Final = 2

SPECIALISE_MAX: Final = 256 * 1024
ENVIRONMENT_MAX: Final = 256 * 1024
CALL_MAX: Final = 8 * 1024 * 1024 + 256 * 1024
STRINGS_MAX: Final = 16 * 1024
# The kernel's MAX_ARG_STRLEN, less the NUL: execve refuses a longer argument or variable.
STRING_MAX: Final = 131_071
OUTPUT_MAX: Final = 64 * 1024
# What a guest keeps of a stream that was not told otherwise on its command line.
STDOUT_MAX: Final = 6 * 1024 * 1024
STDERR_MAX: Final = 1024 * 1024
TEXT_MAX: Final = 1024
# The errno of SPECIALISED about a runner that ended or was late, and didn't say itself why it can't
# start. What it wrote last may.
NO_REASON: Final = frozenset((errno.ECHILD, errno.ETIMEDOUT))
# What a runner that did not start wrote last, and the NUL before it.
LAST_WORDS_MAX: Final = 4096 + 1
TIMEOUT_MS_MAX: Final = 0xFFFF_FFFF
NONCE_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF

PREPARE: Final = ord("R")
SPECIALISE: Final = ord("S")
CALL: Final = ord("C")
SOCKET: Final = ord("D")
HELLO: Final = ord("H")
SPECIALISED: Final = ord("P")
STDOUT: Final = ord("O")
STDERR: Final = ord("E")
RESULT: Final = ord("T")
END: Final = ord("X")
CLEAN: Final = ord("Z")

KEEP_TMP: Final = 1
RESIDENT: Final = 2
KEEP_STATE: Final = 4
SHELL: Final = 8
FRESH: Final = 16
SERVER: Final = 32
HAS_PAYLOAD: Final = 1
ENV_REPLACES: Final = 2
FOLLOWED: Final = 4

# The kind is read with its three zero bytes as one number, so that a set one matches nothing.
_HEADER: Final = Struct("<II")
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_CALL: Final = Struct("<IIQIII")
_SPECIALISE: Final = Struct("<III")
_END: Final = Struct("<QIIQQQ")

# What a handler may have had a hand in. Beyond that a database may not take the record, and with it
# none of its group commit.
CODE_MAX: Final = 0x7FFF_FFFF
DROPPED_MAX: Final = 1 << 53

# The shortest and the longest payload of each frame a guest may send.
_LENGTHS: Final[Mapping[int, tuple[int, int]]] = {
    HELLO: (4, 4),
    SPECIALISED: (4, 4 + TEXT_MAX + LAST_WORDS_MAX),
    STDOUT: (9, 8 + OUTPUT_MAX),
    STDERR: (9, 8 + OUTPUT_MAX),
    RESULT: (9, 8 + OUTPUT_MAX),
    END: (_END.size, _END.size + TEXT_MAX),
    CLEAN: (8, 8),
    SOCKET: (4, 4),
}


class WireError(Exception):
    """The bytes are not what the protocol allows."""


class FrameTooLong(WireError):
    """A frame, or a part of one, is longer than the protocol allows."""


class ExitKind(IntEnum):
    """How a handler ended."""

    EXITED = 0
    KILLED = 1
    DEADLINE = 2
    NOT_STARTED = 3


_EXIT_KINDS: Final = tuple(ExitKind)


@dataclass(slots=True)
class Hello:
    """The guest is there and speaks this version of the protocol."""

    version: int


@dataclass(slots=True)
class Specialised:
    """The guest is ready for calls, or says with `errno` and a sentence why it is not.

    Of a runner that is ready, `text` is how it serves calls: `fork`, `once` or `keep`, and a note.
    `written`: what one that is not ready wrote last.
    """

    errno: int
    text: str
    written: bytes = b""


@dataclass(slots=True)
class Output:
    """The handler of call `nonce` wrote `data`, 1 to 65,536 bytes, to `stream`."""

    nonce: int
    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(slots=True)
class Result(Output):
    """A piece of what the handler of call `nonce` returned, as its runner told it.

    Clients are shown a result as the end of standard output, which is why it is an `Output` of that
    stream.
    """


@dataclass(slots=True)
class End:
    """The handler of call `nonce` has ended, and every process it left behind.

    `code` is the exit status (EXITED), the signal's number (KILLED), 0 (DEADLINE) or an errno with
    a sentence in `text` (NOT_STARTED). The dropped counts are bytes beyond what it keeps. Those
    of a result are standard output's where the guest was told no limit for results.
    """

    nonce: int
    kind: ExitKind
    code: int
    dropped_stdout: int
    dropped_stderr: int
    text: str
    dropped_result: int = 0


@dataclass(slots=True)
class Clean:
    """Nothing of call `nonce` is left; the guest waits for the next."""

    nonce: int


@dataclass(slots=True)
class Socket:
    """A socket of the sandbox, which came as a descriptor; with `errno` there is none."""

    errno: int


Event = Hello | Specialised | Output | Result | End | Clean | Socket
# What asks a server's guest for a socket.
ASK_SOCKET: Final = _HEADER.pack(SOCKET, 0)


def encode_prepare(*, argv: Sequence[str], environment: Mapping[str, str]) -> bytes:
    """The frame that starts a runner before anybody knows what for.

    Raises `WireError` for what no process can be given, `FrameTooLong` beyond a limit.
    """
    if not argv:
        raise WireError("argv must have at least one argument")
    body = _blobs(argv) + _variables(environment)
    if len(body) > SPECIALISE_MAX:
        raise FrameTooLong(f"a prepare frame of {len(body)} bytes, at most {SPECIALISE_MAX}")
    return _HEADER.pack(PREPARE, len(body)) + body


def encode_specialise(
    *,
    argv: Sequence[str],
    cwd: str,
    environment: Mapping[str, str],
    flags: int = 0,
) -> bytes:
    """The frame that tells a fresh guest what it is for. `argv[0]` is a path, not looked up.

    `flags`: KEEP_TMP: /tmp survives a call. RESIDENT: argv is a runner, started now; with
    KEEP_STATE it may serve call after call. SHELL: argv is a shell, `-c` and a command line, which
    may be started before the call comes. FRESH: a runner that was prepared cannot be used for it.
    SERVER: argv is a program that serves by itself, and there are no calls.
    Raises `WireError` for what no process can be given, `FrameTooLong` beyond a limit.
    """
    if not argv:
        raise WireError("argv must have at least one argument")
    if flags & KEEP_STATE and not flags & RESIDENT:
        raise WireError("only a resident program can keep its state")
    if flags & SERVER and flags & (RESIDENT | SHELL | FRESH):
        raise WireError("a server is started by itself")
    if flags & SHELL and (flags & RESIDENT or len(argv) != 3):
        raise WireError("a shell is a path, -c and a command line, and not resident")
    body = b"".join(
        (
            _U32.pack(flags),
            _blob(cwd),
            _blobs(argv),
            _variables(environment),
        )
    )
    if len(body) > SPECIALISE_MAX:
        raise FrameTooLong(f"a specialise frame of {len(body)} bytes, at most {SPECIALISE_MAX}")
    return _HEADER.pack(SPECIALISE, len(body)) + body


def encode_call(
    *,
    nonce: int,
    timeout_ms: int,
    environment: Mapping[str, str],
    payload: bytes | None = None,
    env_replaces: bool = False,
    is_followed: bool = False,
) -> bytes:
    """The frame that runs the handler once. `is_followed`: somebody waits for its output.

    `environment` is added to the specialised one, with names that do not occur there, or with
    `env_replaces` is the whole. Without a payload the handler reads from /dev/null.
    Raises `WireError` for what no process can be given, `FrameTooLong` beyond a limit.
    """
    if not 0 <= nonce <= NONCE_MAX:
        raise WireError(f"nonce must be an unsigned number of 64 bits, not {nonce}")
    if not 0 <= timeout_ms <= TIMEOUT_MS_MAX:
        raise WireError(f"timeout_ms must be between 0 and {TIMEOUT_MS_MAX}, not {timeout_ms}")
    env = _variables(environment)
    if len(env) > ENVIRONMENT_MAX:
        raise FrameTooLong(f"an environment of {len(env)} bytes, at most {ENVIRONMENT_MAX}")
    length = _CALL.size - _HEADER.size + len(env) + len(payload or b"")
    if length > CALL_MAX:
        raise FrameTooLong(f"a call frame of {length} bytes, at most {CALL_MAX}")
    flags = (HAS_PAYLOAD if payload is not None else 0) | (ENV_REPLACES if env_replaces else 0)
    flags |= FOLLOWED if is_followed else 0
    head = _CALL.pack(CALL, length, nonce, timeout_ms, flags, len(env))
    return b"".join((head, env, payload or b""))


def _blob(text: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise WireError("a string holds a lone surrogate") from error
    if len(encoded) > STRING_MAX:
        raise FrameTooLong(f"a string of {len(encoded)} bytes, at most {STRING_MAX}")
    if b"\0" in encoded:
        raise WireError("a string holds a NUL character")
    return _U32.pack(len(encoded)) + encoded


def _blobs(texts: Sequence[str]) -> bytes:
    if len(texts) > STRINGS_MAX:
        raise FrameTooLong(f"{len(texts)} strings, at most {STRINGS_MAX}")
    return _U32.pack(len(texts)) + b"".join(map(_blob, texts))


def _variables(environment: Mapping[str, str]) -> bytes:
    # In one piece, because every call has some.
    if "" in environment or "=" in "".join(environment):
        bad = next(name for name in environment if not name or "=" in name)
        raise WireError(f"{bad!r} cannot be the name of a variable")
    texts = list(map("=".join, environment.items()))
    joined = "\0".join(texts)
    if not joined.isascii() or len(joined) > STRING_MAX or joined.count("\0") != len(texts) - 1:
        return _blobs(texts)
    if len(texts) > STRINGS_MAX:
        raise FrameTooLong(f"{len(texts)} strings, at most {STRINGS_MAX}")
    lengths = map(_U32.pack, map(len, texts))
    parts = zip(lengths, joined.encode().split(b"\0"), strict=True)
    return b"".join([_U32.pack(len(texts)), *chain.from_iterable(parts)])


class Decoder:
    """What a guest sends, cut into events. One for each connection."""

    __slots__ = ("_failed", "_needed", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = _HEADER.size
        self._failed: WireError | None = None

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes, in order; what is incomplete waits for more.

        Raises `WireError` (also ever after, once raised), `FrameTooLong` as soon as a header
        announces too much: at most one frame is ever held.
        """
        if self._failed is not None:
            raise self._failed
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._needed:
                return []
            data = bytes(rest)
            rest.clear()
        events: list[Event] = []
        try:
            used = self._cut(data, events)
        except WireError as error:
            self._failed = error
            raise
        if used < len(data):
            rest += data[used:]
        return events

    def _cut(self, data: bytes, events: list[Event]) -> int:
        """Appends the events of all whole frames in `data`; returns how many bytes they took."""
        at, size = 0, len(data)
        while True:
            start = at + 8
            if start > size:
                self._needed = 8
                return at
            kind, length = _HEADER.unpack_from(data, at)
            limits = _LENGTHS.get(kind)
            if limits is None:
                raise WireError(f"no guest sends frames of kind {kind:#x}")
            if length > limits[1]:
                raise FrameTooLong(f"{length} bytes in a frame {kind:c}, at most {limits[1]}")
            if length < limits[0]:
                raise WireError(f"{length} bytes in a frame {kind:c}, at least {limits[0]}")
            end = start + length
            if end > size:
                self._needed = 8 + length
                return at
            events.append(_event(kind, data, start, end))
            at = end


def _event(kind: int, data: bytes, start: int, end: int) -> Event:
    """The event in one whole frame; its payload, data[start:end], has a length its kind allows."""
    if kind == STDOUT:
        return Output(_U64.unpack_from(data, start)[0], "stdout", data[start + 8 : end])
    if kind == RESULT:
        return Result(_U64.unpack_from(data, start)[0], "stdout", data[start + 8 : end])
    if kind == END:
        nonce, exit_kind, code, out, err, result = _END.unpack_from(data, start)
        if exit_kind >= len(_EXIT_KINDS):
            raise WireError(f"a handler cannot end in way {exit_kind}")
        if code > CODE_MAX or max(out, err, result) > DROPPED_MAX:
            raise WireError("the end of a handler has a number that is too large")
        text = data[start + _END.size : end].decode(errors="replace")
        return End(nonce, _EXIT_KINDS[exit_kind], code, out, err, text, result)
    if kind == CLEAN:
        return Clean(_U64.unpack_from(data, start)[0])
    if kind == STDERR:
        return Output(_U64.unpack_from(data, start)[0], "stderr", data[start + 8 : end])
    if kind == HELLO:
        return Hello(_U32.unpack_from(data, start)[0])
    if kind == SOCKET:
        return Socket(_U32.unpack_from(data, start)[0])
    message, _, written = data[start + 4 : end].partition(b"\0")
    return Specialised(_U32.unpack_from(data, start)[0], message.decode(errors="replace"), written)
