"""The frames between host and guest: bytes in, events out.

Rule 1: this module uses no socket, clock or log; equal bytes give equal events, regardless of how
they were split.
Rule 2: in both directions, a violation of `docs/reference/guest-protocol.md` raises `WireError` and
nothing else. A decoder that has raised an error is unusable.
Rule 3: the owner of the socket checks the order of frames, and that a nonce is the expected one.

Every invocation passes here. The data of one `feed` usually has all frames of an invocation and is
parsed in place. Events are not frozen, since creating a frozen one takes 50 % longer.
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
# The kernel's MAX_ARG_STRLEN without the NUL: execve refuses a longer argument or variable.
STRING_MAX: Final = 131_071
OUTPUT_MAX: Final = 64 * 1024
# The guest's default limits on output, used unless its command line has others.
STDOUT_MAX: Final = 6 * 1024 * 1024
STDERR_MAX: Final = 1024 * 1024
TEXT_MAX: Final = 1024
# The errno of SPECIALISED for a runner that ended or timed out without giving a reason. The reason
# may be in its last output.
NO_REASON: Final = frozenset((errno.ECHILD, errno.ETIMEDOUT))
# The limit on the last output of a runner that did not start, with the NUL that precedes it.
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

# Kind and three zero bytes are read as one number, which any other byte makes invalid.
_HEADER: Final = Struct("<II")
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_CALL: Final = Struct("<IIQIII")
_SPECIALISE: Final = Struct("<III")
_END: Final = Struct("<QIIQQQ")

# Limits on numbers that a handler can influence. A database could refuse a record with a larger
# number, and with it all records of the same group commit.
CODE_MAX: Final = 0x7FFF_FFFF
DROPPED_MAX: Final = 1 << 53

# The minimum and maximum length of the payload, for each frame that a guest may send.
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
    """The bytes violate the protocol."""


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
    """The guest has started and uses this version of the protocol."""

    version: int


@dataclass(slots=True)
class Specialised:
    """The guest is ready for invocations; or `errno` is set, and `text` has the reason.

    If a runner is ready, `text` has its serving mode, `fork`, `once` or `keep`, and a note.
    `written`: the last output of a runner that is not ready.
    """

    errno: int
    text: str
    written: bytes = b""


@dataclass(slots=True)
class Output:
    """The handler of invocation `nonce` wrote `data`, 1 to 65,536 bytes, to `stream`."""

    nonce: int
    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(slots=True)
class Result(Output):
    """A piece of the result of invocation `nonce`, as reported by the runner.

    It is an `Output` of standard output, since clients see a result as the end of that stream.
    """


@dataclass(slots=True)
class End:
    """The handler of invocation `nonce` has ended, with every process that it left behind.

    `code` is the exit status (EXITED), the signal's number (KILLED), 0 (DEADLINE) or an errno with
    a sentence in `text` (NOT_STARTED). The dropped counts are bytes beyond the limits. Without a
    limit for results, dropped bytes of a result count as standard output.
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
    """Invocation `nonce` is cleaned up; the guest waits for the next one."""

    nonce: int


@dataclass(slots=True)
class Socket:
    """A socket of the sandbox, sent as a descriptor. If `errno` is set, there is no socket."""

    errno: int


Event = Hello | Specialised | Output | Result | End | Clean | Socket
# The frame that requests a socket from the guest of a web server.
ASK_SOCKET: Final = _HEADER.pack(SOCKET, 0)
# The frame that starts a shell, which is forked for invocations, before its function is known.
PREPARE_SHELL: Final = _HEADER.pack(PREPARE, 0)


def encode_prepare(*, argv: Sequence[str], environment: Mapping[str, str]) -> bytes:
    """Encodes the frame that starts a runner before its function is known.

    Raises `WireError` for values that no process can be given, and `FrameTooLong` above a limit.
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
    """Encodes the frame that specialises a new guest. `argv[0]` is a path, which is not searched.

    `flags`: KEEP_TMP: /tmp is kept between invocations. RESIDENT: argv is a runner, which starts
    now; with KEEP_STATE, one process may serve several invocations. SHELL: argv is a shell, `-c`
    and a command line, and may be started before an invocation arrives. FRESH: do not use a
    prepared runner. SERVER: argv is a web server: the guest itself gets no invocations. Raises
    `WireError` for values that no process can be given, and `FrameTooLong` above a limit.
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
    """Encodes the frame that runs the handler once. `is_followed`: a client follows its output.

    `environment` is added to the variables of the version, whose names it must not repeat; with
    `env_replaces`, it replaces them. Without a payload, the handler reads from /dev/null.
    Raises `WireError` for values that no process can be given, and `FrameTooLong` above a limit.
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
    # Checks all variables together, for speed: every invocation has some.
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
    """Turns the bytes from a guest into events. Each connection needs its own decoder."""

    __slots__ = ("_failed", "_needed", "_rest")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = _HEADER.size
        self._failed: WireError | None = None

    @property
    def is_in_frame(self) -> bool:
        """Whether it has an incomplete frame."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[Event]:
        """Returns the events that `data` completes, in order; keeps an incomplete frame.

        Raises `WireError`, also on every later call. Raises `FrameTooLong` as soon as a header
        announces too much, so it never holds more than one frame.
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
        """Appends the events of all complete frames in `data`; returns the size of these frames."""
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
    """Decodes a complete frame. Its payload, data[start:end], has a length that its kind allows."""
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
