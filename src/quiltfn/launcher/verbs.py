"""The seven requests that a server may send, each argument checked.

One message is one JSON object in one packet of a SOCK_SEQPACKET pair without name or path.
Requests: `{"n": int, "verb": "create", "memory_mib": int, "cpu_percent": number, "image": digest or
null, "base_image" and "packages" likewise, "network": "none" | "egress", "writable_paths": [path,
…], "isolation": "crun" | "gvisor", "pids": int, "tmp_mib": int, "file_mib": int, "open_files":
int}`, `{"n": int, "verb": "limit", "sandbox": id, "memory_mib": int, "cpu_percent": number}`,
`{"n": int, "verb": "deadline", "deadline": seconds}`, `{"n": int, "verb": "kill" | "used" |
"counters" | "destroy", "sandbox": id}`. On a node of a fleet, create also has a `deadline`, after
which it is refused; see `deadline.py`. A reply repeats `n`. The reply to create carries two
descriptors: the control socket and the event counter. The reply to used has the memory in use, as
`bytes`. Replies to counters and destroy have `blocked`, the number of connection attempts that the
sandbox's network refused; `refused`, the destinations of the first of them as [address, port, "tcp"
| "udp"]; and `cpu_us`, the CPU time that the sandbox has used, in microseconds.
"""

import json
import re
from typing import Any, NamedTuple

from quiltfn.launcher.cgroups import Limits, SandboxLimits

MESSAGE_MAX = 64 * 1024
SANDBOX_ID = re.compile(r"[0-9a-f]{24}")
IMAGE = re.compile(r"[0-9a-f]{64}")
NETWORKS = ("none", "egress")
ISOLATIONS = ("crun", "gvisor")
WRITABLE_MAX = 8
DEADLINE_MAX = 1e10  # seconds, longer than any machine runs
WRITABLE = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}){1,4}")
# Top-level directories that a sandbox needs; writable paths in them are refused.
FIXED = frozenset(
    {"proc", "sys", "dev", "usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}
    | {"tmp", "app", "run"}
)


class Refused(Exception):
    """The server sent an invalid request."""


class Create(NamedTuple):
    n: int
    limits: SandboxLimits
    image: str | None = None
    base_image: str | None = None
    network: str = "none"
    writable_paths: tuple[str, ...] = ()
    isolation: str = "crun"
    deadline: float | None = None
    packages: str | None = None


class SetDeadline(NamedTuple):
    """`deadline`: seconds of CLOCK_BOOTTIME."""

    n: int
    deadline: float


class Limit(NamedTuple):
    n: int
    sandbox: str
    limits: Limits


class OnSandbox(NamedTuple):
    """`verb`: one of `ON_SANDBOX`."""

    n: int
    verb: str
    sandbox: str


# The limits that cannot be changed later, by their names in `SandboxLimits`.
ROOM = ("pids", "tmp_mib", "file_mib", "open_files")

Verb = Create | Limit | SetDeadline | OnSandbox
ON_SANDBOX = ("kill", "used", "counters", "destroy")


def parse(message: bytes, *, most: SandboxLimits) -> Verb:
    """Parses a packet and checks every argument. Raises `Refused`. `most`: the maximum limits of
    one sandbox.
    """
    try:
        request = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Refused(f"not JSON: {error}") from None
    if not isinstance(request, dict):
        raise Refused("not an object")
    n, verb = request.get("n"), request.get("verb")
    if type(n) is not int:
        raise Refused(f"n must be an integer, not {n!r}")
    if verb == "create":
        known = {"n", "verb", "memory_mib", "cpu_percent", "image", "network", "writable_paths"}
        known |= {"isolation", "base_image", "packages", *ROOM}
        _only(request, known | ({"deadline"} & set(request)))
        if request["packages"] is not None and request["image"] is None:
            raise Refused("packages require an image")
        return Create(
            n,
            _sandbox_limits(request, most),
            _image("image", request.get("image")),
            _image("base_image", request.get("base_image")),
            _one_of("network", request.get("network"), NETWORKS),
            _writable_paths(request.get("writable_paths")),
            _one_of("isolation", request.get("isolation"), ISOLATIONS),
            _deadline(request["deadline"]) if "deadline" in request else None,
            _image("packages", request.get("packages")),
        )
    if verb == "limit":
        _only(request, {"n", "verb", "sandbox", "memory_mib", "cpu_percent"})
        return Limit(n, _sandbox(request), _limits(request, most))
    if verb == "deadline":
        _only(request, {"n", "verb", "deadline"})
        return SetDeadline(n, _deadline(request.get("deadline")))
    if isinstance(verb, str) and verb in ON_SANDBOX:
        _only(request, {"n", "verb", "sandbox"})
        return OnSandbox(n, verb, _sandbox(request))
    raise Refused(f"there is no verb {verb!r}")


def _limits(request: dict[str, Any], most: Limits) -> Limits:
    memory, cpu = _count(request, "memory_mib", most.memory_mib), request.get("cpu_percent")
    if type(cpu) is bool or not isinstance(cpu, int | float) or not 1 <= cpu <= most.cpu_percent:
        raise Refused(f"cpu_percent must be 1 to {most.cpu_percent:g}, not {cpu!r}")
    return Limits(memory_mib=memory, cpu_percent=float(cpu))


def _sandbox_limits(request: dict[str, Any], most: SandboxLimits) -> SandboxLimits:
    limits = _limits(request, most)
    room = {name: _count(request, name, getattr(most, name)) for name in ROOM}
    return SandboxLimits(memory_mib=limits.memory_mib, cpu_percent=limits.cpu_percent, **room)


def _count(request: dict[str, Any], name: str, most: int) -> int:
    value = request.get(name)
    if type(value) is bool or not isinstance(value, int) or not 1 <= value <= most:
        raise Refused(f"{name} must be 1 to {most}, not {value!r}")
    return value


def _sandbox(request: dict[str, Any]) -> str:
    sandbox = request.get("sandbox")
    if not isinstance(sandbox, str) or not SANDBOX_ID.fullmatch(sandbox):
        raise Refused(f"sandbox must be 24 hexadecimal digits, not {sandbox!r}")
    return sandbox


def _image(name: str, image: Any) -> str | None:
    if image is None or (isinstance(image, str) and IMAGE.fullmatch(image)):
        return image
    raise Refused(f"{name} must be 64 hexadecimal digits or null, not {image!r}")


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in allowed:
        return value
    raise Refused(f"{name} must be one of {allowed}, not {value!r}")


def _deadline(deadline: Any) -> float:
    is_number = type(deadline) is not bool and isinstance(deadline, int | float)
    if is_number and 0 <= deadline <= DEADLINE_MAX:
        return float(deadline)
    raise Refused(f"deadline must be seconds of CLOCK_BOOTTIME, not {deadline!r}")


def _writable_paths(paths: Any) -> tuple[str, ...]:
    if not isinstance(paths, list) or len(paths) > WRITABLE_MAX:
        raise Refused(f"writable_paths must be a list of at most {WRITABLE_MAX}, not {paths!r}")
    for path in paths:
        if not isinstance(path, str) or not WRITABLE.fullmatch(path):
            raise Refused(f"{path!r} cannot be a writable path")
        if path.split("/")[1] in FIXED:
            raise Refused(f"no file system may cover {path!r}")
    return tuple(paths)


def _only(request: dict[str, Any], known: set[str]) -> None:
    if set(request) != known:
        raise Refused(f"fields must be {sorted(known)}, not {sorted(request)}")
