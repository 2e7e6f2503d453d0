"""Clients that queue and check asynchronous invocations, and a witness of the runs of handlers.

The witness is a pipe that the OCI runtime mounts into every sandbox for the test. A handler writes
a line to it at its start. The content of the pipe survives every process of the server, and a power
cut.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.history import FINAL, is_spent
from e2e.server import CRUN, AnyServer, pages, short_dir
from e2e.work_history import Job, Record, Redrive, Run, Schedule, WorkHistory, WorkSeen
from timeouts import scaled

Ask = Callable[..., tuple[int, Any]]

WITNESSED = """\
read -r up _ < /proc/uptime
echo "$QUILT_INVOCATION_ID $QUILT_DEADLINE_MS $up $QUILT_PAYLOAD" > /dev/witness
case $QUILT_PAYLOAD in
    bad*) exit 1;;
    flaky*) case $QUILT_DEADLINE_MS in *[13579]) exit 1;; esac;;
    slow*) sleep 0.2;;
esac
printf %s "$QUILT_PAYLOAD"
"""
# The pipe is mounted below the sandbox's own /dev.
RUNTIME = """\
#!/bin/sh
case " $* " in *" run "*)
    for word; do
        [ "$before" != --bundle ] || sed -i '{edit}' "$word/config.json"
        before=$word
    done;;
esac
exec {crun} "$@"
"""
DEV = '{"destination": "/dev", [^}]*}'
MOUNT = '{"destination": "/dev/witness", "type": "bind", "source": "PIPE", "options": ["bind"]}'
PIPE_BYTES = 1 << 20


class Witness:
    """`crun`: an OCI runtime for a server whose handlers are observed. `runs`: the observed
    runs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.crun, pipe = directory, directory / "crun", directory / "witness"
        os.mkfifo(pipe)
        pipe.chmod(0o666)
        edit = f"s|{DEV}|&, {MOUNT.replace('PIPE', str(pipe))}|"
        self.crun.write_text(RUNTIME.format(edit=edit, crun=shlex.quote(CRUN)))
        self.crun.chmod(0o755)
        # The pipe is also open for writing here: without a writer, reading it would find its end.
        self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._text = bytearray()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            if select.select([self._pipe], [], [], 0.1)[0]:
                self._text += os.read(self._pipe, PIPE_BYTES)

    def runs(self) -> list[Run]:
        """The observed runs in the order of their starts."""
        lines = [line.split(" ", 3) for line in bytes(self._text).decode().splitlines()]
        return [Run(name, int(end), float(at), token) for name, end, at, token in lines]

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        os.close(self._pipe)


@contextmanager
def witness() -> Iterator[Witness]:
    with short_dir() as directory:
        witness = Witness(directory)
        try:
            yield witness
        finally:
            witness.close()


def uptime() -> float:
    """The machine's uptime in seconds, from /proc/uptime."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# The clients --------------------------------------------------------------------------------------

PAUSE_S = 0.005
# A client that finds this many queued invocations of a function waits until there are fewer.
WAITING_MAX = 300
KINDS = ("ok",) * 13 + ("bad",) * 2 + ("flaky",) * 4 + ("slow",)
# An invocation that is unfinished this long after the storm counts as one that never ends.
OVER_S = 120.0
ONCE = {"max_attempts": 1}
AGAIN = {"max_attempts": 3, "backoff_seconds": {"first": 0.1, "most": 1}}
SCHEDULES = ({"overlap": "allow", "missed": "skip"}, {"overlap": "queue", "missed": "run_once"})


@dataclass
class WorkLoad:
    """Clients that queue invocations, wait for them, cancel them and redrive dead letters, on
    functions with one attempt and with three; and schedules that are due every second.

    `is_clock_set`: whether the storm sets the server's clock. `over_s`: the time limit until all
    invocations have ended; `settle_s`: the time until everything is counted. Synchronous clients
    may invoke one of the functions at the same time. `instances`: the maximum of the function that
    only these clients invoke.
    """

    server: AnyServer
    ask: Ask
    is_clock_set: bool = False
    over_s: float = OVER_S
    settle_s: float = 0.0
    instances: int = 4
    history: WorkHistory = field(default_factory=WorkHistory)
    attempts: int = 0
    ticks: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, seed: int, shared: str, clients: int) -> None:
        again = self.server.deploy(WITNESSED, max_instances=self.instances).id
        for function, policy in ((shared, ONCE), (again, AGAIN)):
            answer = self.server.call("PUT", f"/api/functions/{function}/async-policy", policy)
            assert answer.status_code == 200, answer.text
            self.history.max_attempts[function] = int(policy["max_attempts"])  # type: ignore[call-overload]
        names = {one["id"]: one["name"] for one in self._functions()}
        for number, fields in enumerate(SCHEDULES):
            name = f"tick-{number}"
            body = {"name": name, "function": names[shared], "every_seconds": 1, "payload": name}
            answer = self.server.call("POST", "/api/schedules", body | fields)
            assert answer.status_code == 201, answer.text
            self.history.schedules.append(name)
        for number in range(clients):
            dice = random.Random(seed + 1000 + number)
            thread = threading.Thread(target=self._live, args=(number, dice))
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def accepted(self) -> int:
        return sum(len(job.accepted) for job in self.history.jobs)

    @property
    def cancels(self) -> int:
        return sum(at is not None for job in self.history.jobs for at in job.cancelled.values())

    @property
    def redrives(self) -> int:
        return sum(len(one.made or ()) for one in self.history.redrives)

    def _live(self, number: int, dice: random.Random) -> None:
        functions = list(self.history.max_attempts)
        mine: list[Job] = []  # the client's recent ones
        for turn in range(1_000_000_000):
            if self._stop.is_set():
                return
            time.sleep(PAUSE_S)
            if turn % 20 == 0:
                self._take_a_break(dice.choice(functions))
            kind = dice.random()
            if kind < 0.8 or not mine:
                keyed = [job for job in mine if job.key and not job.is_spent]
                again = [job for job in keyed if not job.accepted or kind < 0.02]
                if again:
                    job = again[0]
                else:
                    token = f"{dice.choice(KINDS)}-w{number}-{turn}"
                    key = f"key-{token}" if dice.random() < 0.3 else None
                    job = Job(token, dice.choice(functions), key)
                    self.history.jobs.append(job)
                    mine = [*mine, job][-20:]
                self._give(job, "&delay_seconds=1" if dice.random() < 0.2 else "")
            elif kind < 0.88:
                self._cancel(dice.choice(mine[-3:]))
            elif kind < 0.96:
                self._look_at(dice.choice(mine), 1 if dice.random() < 0.2 else 0)
            else:
                self._redrive(dice.choice(functions), dice)

    def _take_a_break(self, function: str) -> None:
        while not self._stop.is_set():
            status, queue = self.ask("GET", f"/api/functions/{function}/queue")
            if status != 200 or queue["queued"] < WAITING_MAX:
                return
            time.sleep(0.2)

    def _give(self, job: Job, more: str) -> None:
        job.sent += 1
        headers = {} if job.key is None else {"Idempotency-Key": job.key}
        # Not with a key, which is only for identical requests.
        path = f"/api/functions/{job.function}/invoke?mode=async{more if job.key is None else ''}"
        status, body = self.ask("POST", path, {"payload": job.token}, headers)
        if status == 202:
            job.accepted.add(body["invocation_id"])
        job.is_spent = is_spent(status, body)

    def _cancel(self, job: Job) -> None:
        for call_id in job.accepted:
            job.cancelled.setdefault(call_id, None)
            path = f"/api/functions/{job.function}/invocations/{call_id}/cancel"
            status, body = self.ask("POST", path)
            if status == 200:
                job.cancelled[call_id] = uptime()
                job.answers.append((time.monotonic(), body))

    def _look_at(self, job: Job, wait_s: int) -> None:
        for call_id in job.accepted:
            path = f"/api/functions/{job.function}/invocations/{call_id}?wait_seconds={wait_s}"
            status, body = self.ask("GET", path)
            if status == 200 and body["status"] in FINAL:
                job.answers.append((time.monotonic(), body))

    def _redrive(self, function: str, dice: random.Random) -> None:
        path = f"/api/functions/{function}/dead-letters"
        status, body = self.ask("GET", f"{path}?limit=5")
        letters = [one["invocation_id"] for one in body["dead_letters"]] if status == 200 else []
        if letters:
            redrive = Redrive(dice.sample(letters, dice.randint(1, len(letters))))
            self.history.redrives.append(redrive)
            wanted = {"invocation_ids": redrive.dead}
            status, body = self.ask("POST", f"{path}/redrive", wanted)
            if status == 200:
                redrive.made = body["invocation_ids"]

    # After the storm -------------------------------------------------------------------------

    def drain(self) -> None:
        """Waits until all invocations have ended, or until the time limit. Two checks in a row must
        succeed, since a due time gets its invocation only after the schedule's previous run.
        """
        end, idle = time.monotonic() + scaled(self.over_s), 0
        while time.monotonic() < end and idle < 2:
            is_busy = any(map(self._has_waiting, self.history.schedules))
            is_busy = is_busy or any(map(self._has_work, self.history.max_attempts))
            idle = 0 if is_busy else idle + 1
            time.sleep(0.2)

    def _has_waiting(self, schedule: str) -> bool:
        runs = pages(self.server, f"/api/schedules/{schedule}/runs", "runs")
        return any(run["outcome"] == "waiting" for run in runs)

    def _has_work(self, function: str) -> bool:
        queue = self._queue(function)
        return bool(queue["queued"] or queue["delayed"] or queue["running"])

    def _queue(self, function: str) -> Record:
        queue: Record = self.server.call("GET", f"/api/functions/{function}/queue").json()
        return queue

    def _functions(self) -> list[Record]:
        return pages(self.server, "/api/functions", "functions")

    def look(self, seen: Witness) -> WorkSeen:
        """Stops the schedules, lets the invocations end, and reads all data."""
        schedules = {name: self._end_schedule(name) for name in self.history.schedules}
        for _ in range(3):
            self.drain()
            time.sleep(self.settle_s)
            functions = {one["id"]: one for one in self._functions()}
            records = self._records()
            known = {run.invocation_id: run.token for run in seen.runs()}
            known |= {one: job.token for job in self.history.jobs for one in job.accepted}
            # The server may accept a request whose client has given up, even after the records were
            # listed.
            if not any(map(self._has_record, known.keys() - records.keys())):
                break
        with ThreadPoolExecutor(8) as threads:
            found = threads.map(
                lambda record: self._token(record, known.get(record["invocation_id"])),
                records.values(),
            )
            tokens = {name: token for name, token in zip(records, found, strict=True) if token}
            attempts = dict(
                zip(
                    tokens,
                    threads.map(lambda token: self._attempts(records[token]), tokens),
                    strict=True,
                )
            )
        self.attempts = sum(map(len, attempts.values()))
        self.ticks = sum(one.fired for one in schedules.values())
        letters = {
            function: [
                one["invocation_id"]
                for one in pages(
                    self.server, f"/api/functions/{function}/dead-letters", "dead_letters"
                )
            ]
            for function in self.history.max_attempts
        }
        queues = {function: self._queue(function) for function in self.history.max_attempts}
        return WorkSeen(records, tokens, attempts, letters, queues, functions, schedules)

    def _records(self) -> dict[str, Record]:
        return {
            one["invocation_id"]: one
            for function in self.history.max_attempts
            for one in pages(self.server, f"/api/functions/{function}/invocations", "invocations")
        }

    def _has_record(self, invocation_id: str) -> bool:
        paths = (f"/api/functions/{one}/invocations" for one in self.history.max_attempts)
        answers = (self.server.call("GET", f"{path}/{invocation_id}") for path in paths)
        return any(answer.status_code == 200 for answer in answers)

    def _token(self, record: Record, known: str | None) -> str | None:
        """The payload of an asynchronous invocation; None for a synchronous one."""
        if known is not None:
            return known if known.split("-")[0] in {*KINDS, "tick"} else None
        answer = self.server.call("GET", f"{_path(record)}/input")
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        payload: str = answer.json()["payload"]
        return payload

    def _attempts(self, record: Record) -> list[Record]:
        answer = self.server.call("GET", f"{_path(record)}/attempts")
        assert answer.status_code == 200, answer.text
        attempts: list[Record] = answer.json()["attempts"]
        return attempts

    def _end_schedule(self, name: str) -> Schedule:
        """Stops a schedule, and reads its state."""
        path, before, end = f"/api/schedules/{name}", None, time.monotonic() + scaled(60)
        while True:  # repeated until the schedule did not change while its runs were read
            schedule = self.server.call("GET", path).json()
            if schedule == before:
                answer = self.server.call("PUT", path, {"enabled": False})
                if answer.status_code == 200:
                    break
                # After the disk was full, this is refused until the server has its reserve again.
                assert time.monotonic() < end, answer.text
                time.sleep(0.5)
            runs, before = pages(self.server, f"{path}/runs", "runs"), schedule
        due = (
            schedule["next_runs"][0] - schedule["created_at"] - 1
        )  # the first due time is a second after the creation
        return Schedule(
            due=None if self.is_clock_set else due // schedule["every_seconds"],
            fired=schedule["fired_count"],
            missed=schedule["missed_count"],
            skipped=schedule["skipped_count"],
            waiting=sum(one["outcome"] == "waiting" for one in runs),
            ticks=[(one["due_at"], one["invocation_id"]) for one in runs],
        )


def _path(record: Record) -> str:
    return f"/api/functions/{record['function_id']}/invocations/{record['invocation_id']}"
