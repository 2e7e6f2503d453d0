"""Sandboxes as the launcher knows them: made and removed by crun, ended by their control group.

Nothing here blocks for longer than a system call: crun runs as a child process that the event loop
watches, a few at a time, because more of them at once only wait for each other in the kernel.
"""

import contextlib
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from quiltfn.launcher import oci
from quiltfn.launcher.cgroups import Cgroups, Limits
from quiltfn.launcher.egress import Egress, Uplink
from quiltfn.launcher.state import ServerState

# It takes some 20 ms. Less than a caller waits for an instance, so that he is told what failed.
CRUN_TIMEOUT_S = 6.0
NOT_STARTED = 127  # what a shell says of a program that it cannot start
STDIO_ON_NULL = [
    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
]


@dataclass(frozen=True, slots=True)
class Created:
    """`control`: our end of the guest's socket; `events`: its counter of out-of-memory kills.

    Both belong to the receiver, who closes them. `pid`: the guest, as the host numbers it.
    """

    sandbox: str
    control: socket.socket
    events: int
    pid: int


@dataclass(frozen=True, slots=True)
class NotCreated:
    """Nothing is left of the attempt; `reason` is a sentence."""

    reason: str


@dataclass(slots=True)
class _Sandbox:
    """`is_starting`: crun is at it, or will be; until it has ended nothing can be deleted."""

    id: str
    uid_base: int
    is_starting: bool = True
    pidfd: int | None = None
    uplink: Uplink | None = None
    on_gone: list[Callable[[int], None]] | None = None


@dataclass(slots=True)
class _Job:
    """One crun process."""

    arguments: list[str]
    done: Callable[[int], None]
    guest_socket: socket.socket | None = None
    pid: int = 0
    pidfd: int = -1
    deadline: float = 0.0


class Sandboxes:
    """Creates, kills and destroys; every answer comes by callback from the event loop."""

    def __init__(
        self,
        state: ServerState,
        cgroups: Cgroups,
        host: oci.Host,
        crun: str,
        selector: selectors.BaseSelector,
        egress: Egress,
    ) -> None:
        self._egress = egress
        self._state, self._cgroups, self._host, self._crun = state, cgroups, host, crun
        self._selector = selector
        self._known: dict[str, _Sandbox] = {}
        self._waiting: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._jobs_max = max(2, os.cpu_count() or 1)

    def create(self, wanted: oci.Wanted, done: Callable[[Created | NotCreated], None]) -> None:
        """Makes a sandbox like that, whose guest runs and waits for its first frame."""
        name = secrets.token_hex(12)
        try:
            sandbox = _Sandbox(name, self._state.take_uids())
        except OSError as error:
            done(NotCreated(f"the sandbox could not be prepared: {error}"))
            return
        self._known[name] = sandbox
        if wanted.egress:
            self._egress.open(
                name,
                sandbox.uid_base,
                wanted.limits,
                done=lambda opened: self._connected(sandbox, wanted, opened, done),
                on_lost=lambda: self.kill(name),
            )
        else:
            self._run(sandbox, wanted, done)

    def blocked(self, name: str) -> int:
        """How many attempts the sandbox's network has refused so far."""
        sandbox = self._known.get(name)
        return 0 if sandbox is None or sandbox.uplink is None else sandbox.uplink.blocked()

    def limit(self, name: str, limits: Limits) -> None:
        """Gives the sandbox other limits. Raises OSError, also where there is none of that name."""
        if name not in self._known:
            raise FileNotFoundError("there is no such sandbox")
        self._cgroups.limit(self._state.id, name, limits)

    def kill(self, name: str) -> None:
        """Ends everything in the sandbox at once; `destroy` is still needed."""
        if name in self._known:
            self._cgroups.kill(self._state.id, name)

    def destroy(self, name: str, done: Callable[[int], None]) -> None:
        """Kills the sandbox and gives everything back; `done` comes when nothing of it is left,
        with the number of attempts that its network has refused.
        """
        sandbox = self._known.get(name)
        if sandbox is None:
            done(0)
        elif sandbox.on_gone is not None:
            sandbox.on_gone.append(done)
        else:
            sandbox.on_gone = [done]
            if not sandbox.is_starting:
                self._end(sandbox)

    def destroy_all(self, timeout_s: float) -> None:
        """Ends every sandbox and waits for it: the last thing a launcher does."""
        for name in list(self._known):
            self.destroy(name, lambda _: None)
        end = time.monotonic() + timeout_s
        while (self._known or self._running) and time.monotonic() < end:
            for key, _ in self._selector.select(0.1):
                if callable(key.data):
                    key.data()
            self.check_timeouts(time.monotonic())

    def check_timeouts(self, now: float) -> None:
        """Ends crun processes that hang; their job then fails as if crun had failed."""
        self._egress.check_timeouts(now)
        for job in self._running:
            if now >= job.deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job.pid, signal.SIGKILL)

    @property
    def is_idle(self) -> bool:
        return not self._running and not self._waiting

    # How it is done --------------------------------------------------------------------------

    def _connected(
        self,
        sandbox: _Sandbox,
        wanted: oci.Wanted,
        opened: Uplink | str,
        done: Callable[[Created | NotCreated], None],
    ) -> None:
        if isinstance(opened, str):
            self._give_up(sandbox, opened, done)
            return
        sandbox.uplink = opened
        if sandbox.on_gone is not None:
            self._give_up(sandbox, "it was given up meanwhile", done)
            return
        binds = wanted.binds | {"/etc/resolv.conf": str(opened.resolv_conf)}
        self._run(sandbox, replace(wanted, netns=opened.path, binds=binds), done)

    def _run(
        self,
        sandbox: _Sandbox,
        wanted: oci.Wanted,
        done: Callable[[Created | NotCreated], None],
    ) -> None:
        try:
            bundle = self._write_bundle(sandbox, wanted)
            ours, guests = socket.socketpair()
        except OSError as error:
            self._give_up(sandbox, error.strerror or str(error), done)
            return
        arguments = ["--log", str(bundle / "log"), "run", "--detach", "--preserve-fds", "1"]
        arguments += ["--pid-file", str(bundle / "pid"), "--bundle", str(bundle), sandbox.id]
        self._enqueue(
            _Job(arguments, lambda code: self._created(sandbox, ours, code, done), guests)
        )

    def _give_up(
        self, sandbox: _Sandbox, reason: str, done: Callable[[Created | NotCreated], None]
    ) -> None:
        """crun was not started for it yet."""
        answer = NotCreated(f"the sandbox could not be prepared: {reason}")
        sandbox.on_gone = [*(sandbox.on_gone or ()), lambda _: done(answer)]
        self._deleted(sandbox)

    def _write_bundle(self, sandbox: _Sandbox, wanted: oci.Wanted) -> Path:
        bundle = self._state.bundles / sandbox.id
        bundle.mkdir(mode=0o700)
        document = oci.config(
            self._host,
            wanted,
            uid_base=sandbox.uid_base,
            cgroup=self._cgroups.path(self._state.id, sandbox.id),
            hostname=sandbox.id[:12],
        )
        (bundle / "config.json").write_text(json.dumps(document))
        return bundle

    def _created(
        self,
        sandbox: _Sandbox,
        ours: socket.socket,
        code: int,
        done: Callable[[Created | NotCreated], None],
    ) -> None:
        bundle = self._state.bundles / sandbox.id
        sandbox.is_starting = False
        try:
            if sandbox.on_gone is not None:
                raise OSError("it was given up meanwhile")
            if code != 0:
                raise OSError(_first_line(bundle / "log") or f"crun ended with {code}")
            if sandbox.uplink is not None and not sandbox.uplink.is_alive:
                raise OSError("the process that leads out of its network ended")
            pid = int((bundle / "pid").read_text())
            sandbox.pidfd = os.pidfd_open(pid)
            self._selector.register(
                sandbox.pidfd, selectors.EVENT_READ, lambda: self._ended(sandbox, pid)
            )
            events = self._cgroups.open_events(self._state.id, sandbox.id)
        except (OSError, ValueError) as error:
            ours.close()
            reason = f"the sandbox could not be made: {error}"
            sandbox.on_gone = [*(sandbox.on_gone or ()), lambda _: done(NotCreated(reason))]
            self._end(sandbox)
            return
        done(Created(sandbox.id, ours, events, pid))

    def _end(self, sandbox: _Sandbox) -> None:
        self._cgroups.kill(self._state.id, sandbox.id)
        if sandbox.uplink is not None:
            sandbox.uplink.end()
        if sandbox.pidfd is None:
            self._delete(sandbox)

    def _ended(self, sandbox: _Sandbox, pid: int) -> None:
        """The guest is dead, and with pid 1 everything in its pid namespace."""
        assert sandbox.pidfd is not None
        self._selector.unregister(sandbox.pidfd)
        os.close(sandbox.pidfd)
        sandbox.pidfd = None
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        if sandbox.on_gone is not None:
            self._delete(sandbox)

    def _delete(self, sandbox: _Sandbox) -> None:
        arguments = ["delete", "--force", sandbox.id]
        self._enqueue(_Job(arguments, lambda _code: self._deleted(sandbox)))

    def _deleted(self, sandbox: _Sandbox) -> None:
        """crun's own exit code does not matter: it fails where there was little left to delete."""
        self._cgroups.remove(self._state.id, sandbox.id)
        shutil.rmtree(self._state.bundles / sandbox.id, ignore_errors=True)
        shutil.rmtree(self._state.crun_root / sandbox.id, ignore_errors=True)
        if sandbox.uplink is None:
            self._forget(sandbox, blocked=0)
        else:
            blocked = sandbox.uplink.blocked()
            self._egress.close(sandbox.uplink, lambda: self._forget(sandbox, blocked))

    def _forget(self, sandbox: _Sandbox, blocked: int) -> None:
        self._state.give_back_uids(sandbox.uid_base)
        del self._known[sandbox.id]
        for done in sandbox.on_gone or ():
            done(blocked)

    def _enqueue(self, job: _Job) -> None:
        # A sandbox that somebody waits for goes before one that nobody wants any more.
        if job.guest_socket is not None:
            first_delete = next(
                (n for n, one in enumerate(self._waiting) if one.guest_socket is None),
                len(self._waiting),
            )
            self._waiting.insert(first_delete, job)
        else:
            self._waiting.append(job)
        self._run_waiting()

    def _run_waiting(self) -> None:
        while self._waiting and len(self._running) < self._jobs_max:
            job = self._waiting.popleft()
            # systemd's manager would put the groups elsewhere than our paths say.
            always = ["--root", str(self._state.crun_root), "--cgroup-manager", "cgroupfs"]
            actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = list(STDIO_ON_NULL)
            if job.guest_socket is not None:
                actions.append((os.POSIX_SPAWN_DUP2, job.guest_socket.fileno(), oci.CONTROL_FD))
            try:
                job.pid = os.posix_spawn(
                    self._crun,
                    [self._crun, *always, *job.arguments],
                    {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                    file_actions=actions,
                    setsigmask=(),
                    setsigdef=_all_signals(),
                )
            except OSError:  # crun was taken away, or there is no room for a process
                job.done(NOT_STARTED)
                continue
            finally:
                if job.guest_socket is not None:
                    job.guest_socket.close()
            job.pidfd = os.pidfd_open(job.pid)
            job.deadline = time.monotonic() + CRUN_TIMEOUT_S
            self._running.append(job)
            self._selector.register(
                job.pidfd, selectors.EVENT_READ, lambda job=job: self._job_ended(job)
            )

    def _job_ended(self, job: _Job) -> None:
        self._selector.unregister(job.pidfd)
        os.close(job.pidfd)
        _, status = os.waitpid(job.pid, 0)
        self._running.remove(job)
        self._reap_orphans()
        job.done(os.waitstatus_to_exitcode(status))
        self._run_waiting()

    def _reap_orphans(self) -> None:
        """`crun run --detach` leaves a child that ends a little later, so it ends as ours. One that
        is too late for this turn is met in the next.
        """
        name = os.path.basename(self._crun)[:15]
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(OSError):
            while (ended := os.waitid(os.P_ALL, 0, look)) is not None:
                pid = ended.si_pid
                comm = Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
                if comm != name or any(job.pid == pid for job in self._running):
                    return
                os.waitpid(pid, 0)


def _all_signals() -> Iterable[signal.Signals]:
    return signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def _first_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[0] if lines else ""
    return ""
