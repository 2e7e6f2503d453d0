"""Finds the cause of a handler's failure at the end of its standard error, which says more than the
exit code. The text is from the handler, so only readers of the record may see it.

Handlers choose the text, and it is parsed in the event loop: every step takes linear time, and no
pattern backtracks.
"""

import re

import msgspec

from quiltfn.model.end_cause import Exited, NoNetwork, Raised
from quiltfn.model.runtime import Kind, Network

TAIL_BYTES, TAIL_LINES = 16 * 1024, 500
LINE_CHARS, REASON_CHARS = 1000, 200
TRACEBACK = "Traceback (most recent call last):"
HEADERS = (TRACEBACK, f"Exception Group {TRACEBACK}")
EXCEPTION = re.compile(r"[^\W\d](?:[\w.]|<locals>)*(?:: |$)")
PYTHON_FRAME = re.compile(r' {2}File "([^"\n]*)", line (\d+)')
NODE_FRAME = "    at "
NODE_DETAIL = re.compile(r"(?: {2}.*|\}|)$")  # an error's properties follow its frames
GROUP_END = re.compile(r" *\+-{8,}$")
GROUP_MARK = re.compile(r" *+(?:\+-[-+]*.*|[|+] ?)")
# The end of the log, written by the Python runner, of a handler that called sys.exit; and the exit
# status after an exception.
BY_ITSELF, BY_EXCEPTION = "SystemExit: ", 1
OWN = "/app/"
LINE_DIGITS = 9
Raiser = tuple[str, int]  # a file's name and a line
UNREACHABLE = re.compile(
    "connection refused|ECONNREFUSED|network is unreachable|ENETUNREACH|name resolution"
    "|name or service not known|ENOTFOUND|EAI_AGAIN|could not resolve",
    re.IGNORECASE,
)
REFUSED = re.compile("connection refused|ECONNREFUSED", re.IGNORECASE)
# Explanations of an unreachable address: without a network, and with network egress.
NO_NETWORK = "this runtime has no network"
PUBLIC_ALONE = "network egress reaches public addresses alone"


def read(
    code: int, stderr: bytes, *, is_value: bool, runner: Kind | None, network: Network | None
) -> Raised | Exited | NoNetwork:
    """The exception that ended a handler, with its place, or the handler's exit code. `is_value`:
    the handler's last line isn't a reason, since all that it prints goes to its log. `runner`: that
    of Python or Node.js; an exception ended such a handler only if the exit code is 1. `network`:
    None if unknown.
    """
    text = stderr[-TAIL_BYTES:].decode("utf-8", "replace")
    lines = [line[:LINE_CHARS] for line in text.rstrip().rsplit("\n", TAIL_LINES)[-TAIL_LINES:]]
    exit_text = _exit_text(lines[_header(lines) + 1 :]) if runner is Kind.PYTHON else None
    exception = None
    if exit_text is None and (code == BY_EXCEPTION or runner is None):
        if runner is not Kind.NODE:
            exception = _python(lines, is_sure=runner is Kind.PYTHON)
        if exception is None and runner is not Kind.PYTHON:
            exception = _node(lines)
    cause: Raised | Exited
    if exception is not None:
        said, place = exception
        kind, colon, message = _shown(said).partition(": ")
        cause = Raised(kind, message if colon else None, *(place or (None, None)))
    else:
        said = exit_text if exit_text is not None else "" if is_value else lines[-1].strip()
        said = "" if said == str(code) else said
        cause = Exited(code, _shown(said) or None)
    reason = ""
    if network is Network.NONE and UNREACHABLE.search(said):
        reason = NO_NETWORK
    elif network is Network.EGRESS and REFUSED.search(said):
        reason = PUBLIC_ALONE
    return NoNetwork(reason, **msgspec.structs.asdict(cause)) if reason else cause


def _header(lines: list[str]) -> int:
    """The index of the line that begins the last traceback; -1: there is none."""
    return next((at for at in reversed(range(len(lines))) if lines[at] in HEADERS), -1)


def _exit_text(lines: list[str]) -> str | None:
    """The argument of sys.exit; None if the handler didn't call it."""
    found = [line for line in lines if line.startswith(BY_ITSELF)]
    return found[-1].removeprefix(BY_ITSELF).strip() if found else None


def _python(lines: list[str], *, is_sure: bool) -> tuple[str, Raiser | None] | None:
    """The Python exception at the end, and its place in the function's own code; of a group, the
    last exception. Unless it `is_sure` that an exception ended the handler, nothing may follow the
    exception: a program that handled it continues, and later output looks like its message.
    """
    if GROUP_END.match(lines[-1]):
        lines = [
            line[mark.end() :] if (mark := GROUP_MARK.match(line)) else line for line in lines[:-1]
        ]
    block = lines[_header(lines) + 1 :]
    end = next((at for at, line in enumerate(block) if EXCEPTION.match(line)), None)
    if end is None or len(block) == len(lines) or (end < len(block) - 1 and not is_sure):
        return None
    frames = [frame for line in block[:end] if (frame := PYTHON_FRAME.match(line))]
    own = [frame for frame in frames if frame[1].startswith(OWN)] or frames
    return block[end], _place(*own[-1].groups()) if own else None


def _node(lines: list[str]) -> tuple[str, Raiser | None] | None:
    """The Node.js exception at the end, and where it was thrown."""
    at = len(lines) - 1
    while at > 0 and not _node_frame(lines[at]) and NODE_DETAIL.match(lines[at]):
        at -= 1
    place = None
    while at > 0 and (frame := _node_frame(lines[at])):
        at, place = at - 1, frame
    return (lines[at], place) if place and EXCEPTION.match(lines[at]) else None


def _node_frame(line: str) -> Raiser | None:
    """The place in a line of a stack; None if the line isn't part of one."""
    if not line.startswith(NODE_FRAME):
        return None
    path, *numbers = line.removesuffix(" {").removesuffix(")").rsplit(":", 2)
    if len(numbers) == 2 and not numbers[0].isdecimal():
        path, numbers = f"{path}:{numbers[0]}", numbers[1:]
    if not numbers or not all(map(str.isdecimal, numbers)):
        return None
    name = re.split(r"[\s():/]", path)[-1]
    return _place(name, numbers[0]) if name else None


def _place(path: str, line: str) -> Raiser:
    return _shown(path.rpartition("/")[2]), int(line[-LINE_DIGITS:])


def _shown(text: str) -> str:
    """Removes control characters, which terminals obey, and limits the length."""
    plain = "".join(one if one.isprintable() else " " for one in text)
    return plain if len(plain) <= REASON_CHARS else plain[:REASON_CHARS] + "…"
