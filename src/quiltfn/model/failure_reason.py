"""Why a handler failed, read out of what it wrote to its standard error: it says more than the exit
code. The text is the handler's own: it is for those who may read the record, and for nobody else.
"""

import re

TAIL_BYTES = 16 * 1024
LINE_CHARS, REASON_CHARS = 1000, 200
TRACEBACK = "Traceback (most recent call last):\n"
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?:: |$)")
REASON = re.compile(EXCEPTION.pattern.replace("$", r" \(|;|…|$"))  # with its place, or cut
PYTHON_FRAME = re.compile(r' {2}File "([^"\n]*)", line (\d+)')
NODE_FRAME = re.compile(r" {4}at .*?([^/\s():]+):(\d+)(?::\d+)?\)?(?: \{)?$")
OWN = "/app/"
UNREACHABLE = re.compile(
    "connection refused|ECONNREFUSED|network is unreachable|ENETUNREACH|name resolution"
    "|name or service not known|ENOTFOUND|EAI_AGAIN|could not resolve",
    re.IGNORECASE,
)
NO_NETWORK = "; this runtime has no network"


def of_exit(code: int) -> str:
    """What is said of a handler of which nothing else is known, and to whoever may not read what it
    wrote.
    """
    return f"the handler exited with code {code}"


def with_reason(code: int, stderr: bytes, *, is_value: bool, has_network: bool) -> str:
    """The exception that ended a handler, with its place, or else its exit code. `is_value`: it is
    run by a runner, so its last line may be anything that it printed.
    """
    text = stderr[-TAIL_BYTES:].decode("utf-8", "replace")
    lines = [line[:LINE_CHARS] for line in text.split("\n")]
    said = place = ""
    if (found := _python(text) or _node(lines)) is not None:
        said, place = found
        reason = _shown(said) + (f" ({_shown(place)})" if place else "")
    else:
        said = "" if is_value else next((one for one in reversed(lines) if one.strip()), "")
        reason = of_exit(code) + (f": {_shown(said.strip())}" if said else "")
    if not has_network and UNREACHABLE.search(said):
        reason += NO_NETWORK
    return reason


def without_handler_text(message: str | None, code: int | None) -> str | None:
    """A record's message for whoever may not read what the handler wrote."""
    if message is None or code is None:
        return message
    is_reason = message.startswith(of_exit(code) + ": ") or REASON.match(message)
    return of_exit(code) if is_reason else message


def _python(text: str) -> tuple[str, str] | None:
    """The last exception of Python, and its place in the function's own code."""
    _, found, rest = text.rpartition(TRACEBACK)
    lines = [line[:LINE_CHARS] for line in rest.split("\n")] if found else []
    end = next((at for at, line in enumerate(lines) if EXCEPTION.match(line)), None)
    if end is None:
        return None
    frames = [frame for line in lines[:end] if (frame := PYTHON_FRAME.match(line))]
    own = [frame for frame in frames if frame[1].startswith(OWN)] or frames
    return lines[end], _place(own[-1]) if own else ""


def _node(lines: list[str]) -> tuple[str, str] | None:
    """The last exception of Node.js, and where it was thrown."""
    last = next((at for at in reversed(range(len(lines))) if NODE_FRAME.match(lines[at])), 0)
    first = last
    while first > 1 and NODE_FRAME.match(lines[first - 1]):
        first -= 1
    frame = NODE_FRAME.match(lines[first]) if first else None
    if frame is None or not EXCEPTION.match(lines[first - 1]):
        return None
    return lines[first - 1], _place(frame)


def _place(frame: re.Match[str]) -> str:
    return f"{frame[1].rpartition('/')[2]}, line {frame[2]}"


def _shown(text: str) -> str:
    """Without control characters, which terminals obey, and not endless."""
    plain = "".join(one if one.isprintable() else " " for one in text)
    return plain if len(plain) <= REASON_CHARS else plain[:REASON_CHARS] + "…"
