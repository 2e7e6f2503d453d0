"""Storms: inject faults into a server under load, and check its history afterwards (history.py,
work_history.py).

`scripts/soak storms` plays each kind for ten minutes, `test_storms.py` all but `power` for some
seconds.

kill    kill -9 of the server, the launcher or both, every few seconds
power   the file system stops writing at some moment, as in a power cut: unsynced data is lost (the
        ext4 shutdown ioctl, on a loop device); --durability relaxed
strict  the same with --durability strict
disk    the disk is filled to the last byte and freed again, at times with a kill between
clock   the wall clock jumps by seconds, hours and days, forward and back, at times with a restart
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import json
import os
import random
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.history import Call, History, Owned, Seen, Verdict, is_spent, judge
from e2e.rebooting import MISTAKES
from e2e.server import AnyServer, Server, pages, watched
from e2e.test_clock import Jump
from e2e.work_history import WorkVerdict, judge_work
from e2e.work_load import WITNESSED, WorkLoad, witness
from quiltfn.launcher import syscalls
from timeouts import scaled

CALLERS, QUEUERS = 10, 14  # the numbers of clients that invoke, and of those that queue invocations
INSTANCES = 8
PAUSE_S = 0.005
CONNECTIONS_MAX = 8  # connections that one thread of a client keeps
BETWEEN_S = 1.0, 7.0  # the time between faults that make the server unavailable, in seconds
# The delay before a client repeats an unserved or unanswered request, unless a server has started
# by then.
REFUSED_S, AWAY_S = 0.2, 1.0
# `_IOR('X', 125, __u32)`, and the flag to drop ext4's journal, as a power cut does.
EXT4_SHUTDOWN, WITHOUT_JOURNAL = 0x8004587D, 2
# With relaxed durability, a power cut may lose 50 ms, and the time that the disk takes to sync. The
# actual loss is printed.
RELAXED_S = 0.5
DISK_MIB = 512  # enough for an hour of records; the image is sparse
HERE = Path(__file__).parent
OPTIONS = "--prewarmed 1"


@dataclass
class Load:
    """Clients that invoke, repeat keyed requests until they get a response, and change their
    functions. `may_come_late`: an unanswered request may take effect after later ones, at another
    server.
    """

    server: AnyServer
    callers: int = CALLERS
    instances: int = INSTANCES
    timeout_s: float = 20.0
    may_come_late: bool = False
    history: History = field(default_factory=History)
    codes: Counter[str] = field(default_factory=Counter)
    called: str = ""
    is_served: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _kept: threading.local = field(default_factory=threading.local)

    def start(self, seed: int) -> None:
        self.called = self.server.deploy(WITNESSED, max_instances=self.instances).id
        self.is_served.set()
        for number in range(self.callers):
            thread = threading.Thread(
                target=self._live, args=(number, random.Random(seed + number))
            )
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _live(self, number: int, dice: random.Random) -> None:
        pending: list[Call] = []  # keyed requests that got no response yet
        owned: list[Owned] = []
        for turn in range(1_000_000_000):
            if self._stop.is_set():
                return
            time.sleep(PAUSE_S)
            kind = dice.random()
            if kind < 0.1:
                self._change(owned, f"c{number}-{turn}", dice)
            elif kind < 0.4 or pending:
                again = pending.pop(0) if pending and dice.random() < 0.9 else None
                call = again or self._new_call(f"c{number}-{turn}", f"key-{number}-{turn}")
                if self._call(call) or dice.random() < 0.1:
                    pending = [*pending, call][-20:]
            else:
                self._call(self._new_call(f"c{number}-{turn}", None))

    def _new_call(self, token: str, key: str | None) -> Call:
        call = Call(token, self.called, key)
        self.history.calls.append(call)
        return call

    def _call(self, call: Call) -> bool:
        """Makes one request; returns whether its response is still missing."""
        headers = {} if call.key is None else {"Idempotency-Key": call.key}
        path = f"/api/functions/{call.function}/invoke"
        status, body = self.ask("POST", path, {"payload": call.token}, headers)
        call.codes[self._name(status, body)] += 1
        if status == 200:
            call.answers.append((time.monotonic(), body))
        return not call.answers and not is_spent(status, body)

    def _change(self, owned: list[Owned], name: str, dice: random.Random) -> None:
        kind = dice.random()
        if not owned or (kind < 0.3 and len(owned) < 30):
            function = Owned(name)
            owned.append(function)
            self.history.functions.append(function)
            body = {"name": name, "handler": "true", "description": "made"}
            function.sent.append("made")
            status, answer = self.ask("POST", "/api/functions", body)
            if status == 201:
                function.id, function.description, function.sent = answer["function_id"], "made", []
            return
        function = dice.choice(owned)
        if function.id is None or function.is_deleted:
            owned.remove(function)
        elif kind < 0.8:
            function.sent.append(name)
            status, _ = self.ask("PUT", f"/api/functions/{function.id}", {"description": name})
            if status == 200:
                function.description = name
                function.sent = function.sent[:-1] if self.may_come_late else []
        else:
            function.asked_to_delete = True
            status, _ = self.ask("DELETE", f"/api/functions/{function.id}")
            function.is_deleted = status in (204, 404)
            owned.remove(function)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Returns status and body; the status is 0 without a response."""
        connection = self._connection()
        headers = self.server.headers | (headers or {})
        data = None if body is None else json.dumps(body)
        given = {"content-type": "application/json"} if data else {}
        try:
            connection.request(method, path, data, given | headers)
            answer = connection.getresponse()
            text = answer.read()
            reply = (answer.status, json.loads(text) if text else None)
        except (OSError, http.client.HTTPException):
            connection.close()
            reply = (0, None)
        if reply[0] == 503:
            time.sleep(REFUSED_S)
        elif reply[0] == 0:
            self.is_served.wait(AWAY_S)
        self.codes[f"{method} {self._name(*reply)}"] += 1
        return reply

    def _connection(self) -> http.client.HTTPConnection:
        """The thread's own connection to the current server, whose address may have changed."""
        address = self.server.url.removeprefix("http://")
        kept: dict[str, http.client.HTTPConnection] = vars(self._kept)
        if address not in kept:
            if len(kept) == CONNECTIONS_MAX:  # a restarted server may have a different port
                kept.pop(next(iter(kept))).close()
            kept[address] = http.client.HTTPConnection(address, timeout=self.timeout_s)
        return kept[address]

    @staticmethod
    def _name(status: int, body: Any) -> str:
        if status == 0:
            return "no answer"
        code = body.get("error_code") if isinstance(body, dict) else None
        return str(code or status)


def look(load: Load) -> Seen:
    """Reads all records and functions of the server, page by page."""
    return Seen(
        {
            load.called: pages(
                load.server, f"/api/functions/{load.called}/invocations", "invocations"
            )
        },
        {one["name"]: one for one in pages(load.server, "/api/functions", "functions")},
    )


# Kinds of storms ---------------------------------------------------------------------------------


@dataclass
class Storm:
    """A storm of one kind. `cuts`: the times of each power cut, and of the end of all processes
    after it. `blows`: the number of faults of each kind. `kills`: how often every process was
    killed; `away_s`: how long the server was unavailable.
    """

    server: Server
    load: Load
    dice: random.Random
    cuts: list[tuple[float, float]] = field(default_factory=list)
    blows: Counter[str] = field(default_factory=Counter)
    slowest_start_s: float = 0.0
    kills: int = 0
    away_s: float = 0.0
    _killed_at: float = 0.0

    def start_again(self) -> None:
        began = time.monotonic()
        self.server.start()
        self.load.is_served.set()
        now = time.monotonic()
        self.slowest_start_s = max(self.slowest_start_s, now - began)
        self.away_s += now - self._killed_at

    def is_killed(self) -> None:
        self.kills, self._killed_at = self.kills + 1, time.monotonic()
        self.load.is_served.clear()

    def kill(self) -> None:
        """Kills the server, the launcher or both. The other processes end by themselves."""
        self.is_killed()
        whom = self.dice.choice(("server", "launcher", "both"))
        self.blows[f"kill -9 of {whom}"] += 1
        with contextlib.suppress(ProcessLookupError):
            if whom != "launcher":
                self.server.kill_server()
            if whom != "server":
                self.server.kill_launcher()
        self.server.wait()


def kill_storm(storm: Storm, until: float) -> None:
    while time.monotonic() < until:
        time.sleep(storm.dice.uniform(*BETWEEN_S))
        storm.kill()
        storm.start_again()


def power_storm(storm: Storm, until: float) -> None:
    device = storm.server.disk  # type: ignore[attr-defined]
    while time.monotonic() < until:
        time.sleep(storm.dice.uniform(*BETWEEN_S))
        cut = device.cut()
        storm.is_killed()
        storm.blows["power cut"] += 1
        storm.server.kill_server()
        storm.server.kill_launcher()
        storm.server.wait()
        storm.cuts.append((cut, time.monotonic()))
        device.unmount()
        device.mount()
        storm.server.machine_starts_again()  # type: ignore[attr-defined]
        storm.start_again()


def disk_storm(storm: Storm, until: float) -> None:
    filler = storm.server.disk.path / "filler"  # type: ignore[attr-defined]
    while time.monotonic() < until:
        time.sleep(storm.dice.uniform(1.0, 5.0))
        fill(filler)
        storm.blows["disk full"] += 1
        time.sleep(storm.dice.uniform(0.5, 2.0))
        if storm.dice.random() < 0.4:
            storm.kill()
            storm.start_again()  # the server starts although no byte is free
            storm.blows["start on a full disk"] += 1
            time.sleep(1)
        filler.unlink()
        time.sleep(0.5)
        assert storm.server.call("GET", "/health").status_code == 200


def clock_storm(storm: Storm, until: float) -> None:
    jump = storm.server.jump  # type: ignore[attr-defined]
    away_s = 0
    while time.monotonic() < until:
        time.sleep(storm.dice.uniform(0.5, 3.0))
        by_s = round(storm.dice.choice((-1, 1)) * 10 ** storm.dice.uniform(0, 6))
        # Three in ten jumps lead back to the real time; the others add up, forward or back.
        away_s = 0 if storm.dice.random() < 0.3 else away_s + by_s
        jump.set(away_s)
        storm.blows["jump"] += 1
        if storm.dice.random() < 0.2:
            storm.kill()
            storm.start_again()
    jump.set(0)


def fill(path: Path) -> None:
    """Uses all the space that is available to ordinary users."""
    size, taken = 1 << 20, 0
    with path.open("wb", buffering=0) as file:
        os.chmod(path, 0o666)
        while size:
            try:
                os.posix_fallocate(file.fileno(), taken, size)
            except OSError:
                size >>= 1
            else:
                taken += size


@dataclass
class Disk:
    """A separate file system for the data directory, on a loop device."""

    image: Path
    path: Path

    def make(self) -> None:
        with self.image.open("wb") as file:
            file.truncate(DISK_MIB << 20)
        # Only root's filler could use reserved blocks, but not the server, so there are none.
        run("mkfs.ext4", "-q", "-F", "-m", "0", str(self.image))
        self.path.mkdir()
        self.mount()

    def mount(self) -> None:
        """Mounts the image again until the mount is a new file system: the old one may still be
        held by an ending process.
        """
        end = time.monotonic() + scaled(20)
        while True:
            run("mount", "-o", "loop", str(self.image), str(self.path))
            try:
                self.path.chmod(0o755)
            except OSError:
                assert time.monotonic() < end, "the file system that was cut off is still in use"
                self.unmount()
                time.sleep(0.05)
            else:
                return

    def unmount(self) -> None:
        end = time.monotonic() + scaled(20)
        while subprocess.run(
            ["umount", str(self.path)], capture_output=True, check=False
        ).returncode:
            assert time.monotonic() < end, "the disk stays busy"
            time.sleep(0.05)

    def cut(self) -> float:
        """Stops all writes. Returns the time of that by the monotonic clock."""
        opened = os.open(self.path, os.O_RDONLY)
        try:
            at = time.monotonic()
            fcntl.ioctl(opened, EXT4_SHUTDOWN, struct.pack("I", WITHOUT_JOURNAL))
            return at
        finally:
            os.close(opened)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class ServerOnADisk(Server):
    """A server whose data directory is on its own disk."""

    def __init__(self, root: Path, *, options: str, crun: str, mistake: str = "none") -> None:
        self._boot_id = root / "boot_id"
        self.machine_starts_again()
        program = [sys.executable, str(HERE / "rebooting.py"), str(self._boot_id), mistake]
        super().__init__(root, options=options, crun=crun, program=program)
        self.disk = Disk(root / "disk.img", root / "disk")
        self.disk.make()
        self.data_dir = self.disk.path / "data"
        self._command[self._command.index("--data-dir") + 1] = str(self.data_dir)

    def machine_starts_again(self) -> None:
        """Simulates a reboot by changing the kernel's boot id."""
        self._boot_id.write_text(f"{uuid.uuid4()}\n")

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.disk.unmount()


class ServerWithAClock(Server):
    """A server whose wall clock differs from the real one by `jump`."""

    def __init__(self, root: Path, *, options: str, crun: str) -> None:
        self.jump = Jump(root)
        super().__init__(root, options=options, crun=crun, program=self.jump.program)


KINDS: dict[str, tuple[Callable[[Storm, float], None], type[Server], str]] = {
    "kill": (kill_storm, Server, ""),
    "power": (power_storm, ServerOnADisk, "--durability relaxed"),
    "strict": (power_storm, ServerOnADisk, "--durability strict"),
    "disk": (disk_storm, ServerOnADisk, ""),
    "clock": (clock_storm, ServerWithAClock, ""),
}


@dataclass
class Report:
    kind: str
    seconds: float
    storm: Storm
    work: WorkLoad
    verdict: Verdict
    work_verdict: WorkVerdict

    @property
    def is_clean(self) -> bool:
        return self.verdict.is_clean and self.work_verdict.is_clean

    def __str__(self) -> str:
        storm, load = self.storm, self.storm.load
        blows = ", ".join(f"{what} {count}" for what, count in sorted(storm.blows.items()))
        codes = ", ".join(f"{what} {count}" for what, count in sorted(load.codes.items()))
        keyed = sum(call.key is not None for call in load.history.calls)
        sync, work = load.history.acknowledged(), self.work
        up_s = self.seconds - storm.away_s
        return (
            f"{self.kind}, {self.seconds:.0f} s: {sync} sync, {work.accepted} accepted, "
            f"{work.cancels} cancels, {work.redrives} redrives, {work.ticks} ticks, "
            f"{storm.kills} kills\n"
            f"  a second, of {up_s:.0f} with a server: {sync / up_s:.0f} sync, "
            f"{work.accepted / up_s:.0f} accepted; slowest start {storm.slowest_start_s:.1f} s\n"
            f"  {blows}\n  {len(load.history.calls)} calls, {keyed} with a key, "
            f"{work.attempts} attempts\n  {codes}\n  {self.verdict}\n  {self.work_verdict}"
        )


def play(kind: str, seconds: float, seed: int, mistake: str | None = None) -> Report:
    """Runs one storm of this kind; returns the result of checking its history. `mistake`: a bug
    from rebooting.py, with which the server runs.
    """
    storm_of, server_of, options = KINDS[kind]
    more = {}
    if mistake is not None:
        server_of, more = ServerOnADisk, {"mistake": mistake}
    with (
        witness() as seen,
        watched(f"{OPTIONS} {options}", server_of, crun=str(seen.crun), **more) as server,
    ):
        server.start()
        load = Load(server)
        work = WorkLoad(server, load.ask, is_clock_set=kind == "clock")
        if mistake is not None:  # this bug is found without a long wait for invocations
            work.over_s = 1.0
        storm = Storm(server, load, random.Random(seed))
        load.start(seed)
        try:
            work.start(seed, load.called, QUEUERS)
            began = time.monotonic()
            storm_of(storm, began + seconds)
            seconds = time.monotonic() - began
        finally:
            load.stop()
            work.stop()
        storm.start_again() if server.process is None else None
        cuts = storm.cuts if kind == "power" else []
        found = work.look(seen)
        work_verdict = judge_work(work.history, seen.runs(), found, cuts, RELAXED_S)
        verdict = judge(load.history, look(load), cuts, RELAXED_S)
    return Report(kind, seconds, storm, work, verdict, work_verdict)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/soak storms",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kind", choices=sorted(KINDS), action="append")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--mistake", choices=sorted(MISTAKES), help="a control: it must be found")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    # Without this, mount namespaces of other servers would keep this disk mounted after the power
    # cut.
    syscalls.unshare_mounts()
    clean = True
    for kind in given.kind or KINDS:
        report = play(kind, given.seconds, given.seed, given.mistake)
        print(report, flush=True)
        for example in [*report.verdict.examples, *report.work_verdict.examples]:
            print(f"  {example}")
        clean = clean and report.is_clean
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
