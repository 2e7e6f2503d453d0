"""The fixed verbs that the server may ask the launcher for, and nothing beside them.

One message is one JSON object in one packet of a SOCK_SEQPACKET pair without name or path.
Requests: `{"n": int, "verb": "create", "memory_mib": int, "cpu_percent": number}`,
`{"n": int, "verb": "kill" | "destroy", "sandbox": id}`. Answers repeat `n`; a create's answer
carries two descriptors, the control socket and the event counter.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from quiltfn.launcher.cgroups import Limits

MESSAGE_MAX = 64 * 1024
SANDBOX_ID = re.compile(r"[0-9a-f]{24}")


class Refused(Exception):
    """The server sent something that no correct server sends."""


@dataclass(frozen=True, slots=True)
class Create:
    n: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class Kill:
    n: int
    sandbox: str


@dataclass(frozen=True, slots=True)
class Destroy:
    n: int
    sandbox: str


Verb = Create | Kill | Destroy


def parse(message: bytes, *, memory_max_mib: int, cores: int) -> Verb:
    """The verb in a packet, every argument checked. Raises `Refused`."""
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
        _only(request, {"n", "verb", "memory_mib", "cpu_percent"})
        memory, cpu = request.get("memory_mib"), request.get("cpu_percent")
        if type(memory) is bool or not isinstance(memory, int) or not 1 <= memory <= memory_max_mib:
            raise Refused(f"memory_mib must be 1 to {memory_max_mib}, not {memory!r}")
        if type(cpu) is bool or not isinstance(cpu, int | float) or not 1 <= cpu <= 100 * cores:
            raise Refused(f"cpu_percent must be 1 to {100 * cores}, not {cpu!r}")
        return Create(n, Limits(memory_mib=memory, cpu_percent=float(cpu)))
    if verb in ("kill", "destroy"):
        _only(request, {"n", "verb", "sandbox"})
        sandbox = request.get("sandbox")
        if not isinstance(sandbox, str) or not SANDBOX_ID.fullmatch(sandbox):
            raise Refused(f"sandbox must be 24 hexadecimal digits, not {sandbox!r}")
        return Kill(n, sandbox) if verb == "kill" else Destroy(n, sandbox)
    raise Refused(f"there is no verb {verb!r}")


def _only(request: dict[str, Any], known: set[str]) -> None:
    if set(request) != known:
        raise Refused(f"fields must be {sorted(known)}, not {sorted(request)}")
