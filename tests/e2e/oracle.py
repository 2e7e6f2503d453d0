"""The state of the host that a handler could change if its isolation had a hole, and a watched
victim.

`look` is called before and after a group of attacks, and must return the same. Other programs may
run on the machine, so only state is compared that nobody should change (kernel settings, programs,
canaries), or that has the user ids of sandboxes.
"""
# promise: F17

from __future__ import annotations

import hashlib
import os
import re
import secrets
import statistics
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from e2e.leftovers import SERVER_UIDS, UIDS
from e2e.server import CRUN
from timeouts import scaled

PROGRAMS = (CRUN, "/usr/bin/python3", "/usr/bin/dash", "/etc/passwd", "/etc/shadow", "/etc/group")
SETTINGS = ("/proc/sys/kernel", "/proc/sys/vm", "/proc/sys/fs", "/proc/sys/user", "/proc/sys/abi")
SWITCHES = (
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/ksm/run",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/profiling",
)
# Counters and other values that change without an attack.
MOVING = re.compile(
    r"random/|pty/nr|fs/(quota/|aio-nr|dentry-state|file-nr|inode-nr|inode-state)|ns_last_pid|"
    r"vm/(nr_|stat_refresh|compact_memory|drop_caches)|perf_event_max_sample_rate|kernel/tainted"
)
SEEN_BY_ALL = ("/tmp", "/dev/shm", "/var/tmp", "/dev/mqueue", "/run")
TROUBLE = re.compile(r"BUG:|Oops|hung_task|blocked for more than")


def look(canaries: Iterable[Path] = ()) -> dict[str, str]:
    """Returns the value of each examined item, by its name."""
    facts = {str(path): text_of(path) for path in canaries}
    facts |= {name: digest(Path(name)) for name in PROGRAMS}
    for top in SETTINGS:
        for path in Path(top).rglob("*"):
            if path.is_file() and not MOVING.search(str(path)):
                facts[str(path)] = text_of(path)
    facts |= {name: text_of(Path(name)) for name in SWITCHES}
    facts["modules"] = " ".join(sorted(line.split()[0] for line in lines_of("/proc/modules")))
    facts["mounts"] = "\n".join(sorted(mounts()))
    for kind in ("shm", "sem", "msg"):
        facts[f"System V {kind}"] = " ".join(
            line.split()[1] for line in lines_of(f"/proc/sysvipc/{kind}")[1:]
        )
    facts["keys of sandboxes"] = " ".join(sorted(keys()))
    facts["files of sandboxes"] = " ".join(sorted(files_of_sandboxes()))
    facts["listeners of sandboxes"] = " ".join(sorted(listeners()))
    facts["cores"] = " ".join(str(one) for top in ("/", ".") for one in Path(top).glob("core*"))
    facts["trouble of the kernel"] = str(kernel_trouble())
    return facts


def difference(before: dict[str, str], after: dict[str, str]) -> list[str]:
    names = sorted(set(before) | set(after))
    return [
        f"{name}: {before.get(name)!r} became {after.get(name)!r}"
        for name in names
        if before.get(name) != after.get(name)
    ]


@contextmanager
def canaries(*directories: Path) -> Iterator[dict[Path, str]]:
    """Creates files that are readable for every process that can reach them. Yields their content
    by path.
    """
    text = {one / f"canary-{secrets.token_hex(4)}": secrets.token_hex(24) for one in directories}
    try:
        for path, secret in text.items():
            path.write_text(secret)
            path.chmod(0o644)
        yield text
    finally:
        for path in text:
            path.unlink(missing_ok=True)


def text_of(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text()
    return "cannot be read"


def lines_of(name: str) -> list[str]:
    return text_of(Path(name)).splitlines()


def digest(path: Path) -> str:
    with suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return "cannot be read"


def mounts() -> Iterator[str]:
    for line in lines_of("/proc/self/mountinfo"):
        # mounts with these words belong to other tests that run now
        if "quiltfn" not in line and " - nsfs " not in line:
            yield line.split()[4]


def keys() -> Iterator[str]:
    for line in lines_of("/proc/key-users"):
        if int(line.split(":")[0]) in UIDS:
            yield line
    for line in lines_of("/proc/keys"):
        if line.split()[5].isdigit() and int(line.split()[5]) in UIDS:
            yield line


def files_of_sandboxes() -> Iterator[str]:
    """Yields files of sandboxes that can be seen on the host, two levels deep; there must be
    none.
    """
    for top in SEEN_BY_ALL:
        for path, below, files in os.walk(top):
            if path != top:
                below.clear()
            for name in [path, *(f"{path}/{one}" for one in files)]:
                with suppress(OSError):
                    if os.lstat(name).st_uid in UIDS and os.lstat(name).st_uid not in SERVER_UIDS:
                        yield name


def listeners() -> Iterator[str]:
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in lines_of(f"/proc/net/{name}")[1:]:
            part = line.split()
            if int(part[7]) in UIDS and int(part[7]) not in SERVER_UIDS:
                yield part[1]


def kernel_trouble() -> int:
    done = subprocess.run(["dmesg"], capture_output=True, text=True, check=False)
    return len(TROUBLE.findall(done.stdout))


# The victim -----------------------------------------------------------------------------------

EVERY_S, BASELINE_CALLS = 0.2, 20
# A test fails if an attack delays the victim by more than this. It includes delays by scheduling:
# two cores run the server, attackers, the victim, and perhaps other work. The stricter bound
# without this delay is reported beside the figure.
TOLERANCE_MS = 250.0


@dataclass
class Victim:
    """Another tenant's function, invoked five times a second during attacks."""

    url: str
    key: str
    baseline_ms: list[float] = field(default_factory=list)
    under_attack_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._http = httpx.Client(
            base_url=self.url, headers={"X-Api-Key": self.key}, timeout=scaled(30), trust_env=False
        )
        body = {"name": "victim", "handler": "echo alive", "min_instances": 1, "max_instances": 2}
        answer = self._http.post("/api/functions", json=body)
        assert answer.status_code == 201, answer.text
        self._path = f"/api/functions/{answer.json()['function_id']}"
        assert self._http.post(f"{self._path}/deploy").json()["state"] == "active"
        self._call([])
        for _ in range(BASELINE_CALLS):
            self._call(self.baseline_ms)
            time.sleep(0.05)

    def __enter__(self) -> Victim:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._http.close()

    def _run(self) -> None:
        while not self._done.wait(EVERY_S):
            self._call(self.under_attack_ms)

    def _call(self, times_ms: list[float]) -> None:
        began = time.monotonic()
        try:
            answer = self._http.post(f"{self._path}/invoke", json={})
            record = answer.json()
            if answer.status_code != 200 or record["stdout"] != "alive\n":
                self.failures.append(answer.text)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            self.failures.append(repr(error))
        times_ms.append((time.monotonic() - began) * 1000)

    @property
    def bound_ms(self) -> float:
        base = p99(self.baseline_ms)
        return max(1.5 * base, base + 10)

    def __str__(self) -> str:
        return (
            f"victim: {len(self.under_attack_ms)} calls, {len(self.failures)} failures, "
            f"p50 {statistics.median(self.under_attack_ms or [0]):.1f} ms, "
            f"p99 {p99(self.under_attack_ms):.1f} ms (baseline {p99(self.baseline_ms):.1f}, "
            f"bound {self.bound_ms:.1f})"
        )


def p99(times_ms: list[float]) -> float:
    ordered = sorted(times_ms)
    return ordered[int(len(ordered) * 0.99)] if ordered else 0.0
