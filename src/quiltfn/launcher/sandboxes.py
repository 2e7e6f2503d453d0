"""The life of each sandbox, from crun or runsc to the end of its control group.

Nothing here blocks for longer than a system call.
"""

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from quiltfn.base.immutable import ByKeywords
from quiltfn.launcher import descriptors, oci
from quiltfn.launcher.cgroups import Cgroups, Limits, SandboxLimits
from quiltfn.launcher.children import Children
from quiltfn.launcher.egress import NOTHING_BLOCKED, SUFFIX, Egress, EgressProxy
from quiltfn.launcher.egress_rules import Destination
from quiltfn.launcher.gvisor import Gvisor, enter, error_in
from quiltfn.launcher.jobs import Job, Jobs, explained
from quiltfn.launcher.roots import Roots
from quiltfn.launcher.state import ServerState

MACHINE_KIB = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
# Seconds between attempts to remove a control group: the first pause and the longest.
RETRY_MIN_S, RETRY_MAX_S = 0.01, 5.0
# How long a request to destroy a sandbox waits for its groups. Its uids stay reserved until they
# are gone.
ANSWER_S = 1.0


class Created(NamedTuple):
    """`control`: the launcher's end of the guest's socket; `events`: the counter of out-of-memory
    kills. The receiver owns and closes both.

    `pid`: the guest's on the host.
    """

    sandbox: str
    control: socket.socket
    events: int
    pid: int


class NotCreated(NamedTuple):
    """The attempt failed and left nothing. `reason` is a sentence."""

    reason: str


class Counters(NamedTuple):
    """The counters of a sandbox: attempts that its network refused, microseconds of CPU time (0 if
    the host does not count it), and the destinations of the first refused attempts.
    """

    blocked: int = 0
    cpu_us: int = 0
    refused: tuple[Destination, ...] = ()


NOTHING = Counters()


class _Sandbox(ByKeywords):
    """`is_starting`: crun or runsc has not ended yet, so nothing can be deleted yet.

    `limits`: at its creation. `by_runsc`: it is a gVisor sandbox. `pid`: its first process, while
    that is alive. `counters`: the final values.
    """

    id: str
    uid_base: int
    limits: SandboxLimits
    by_runsc: bool
    with_files: Callable[[], oci.SandboxSpec]
    is_starting: bool = True
    pid: int | None = None
    counters: Counters = NOTHING
    proxy: EgressProxy | None = None
    on_gone: list[Callable[[Counters], None]] | None = None


class _Retry(ByKeywords):
    """An ended sandbox with a control group left."""

    sandbox: _Sandbox
    pause_s: float
    next_at: float
    answer_at: float


class Programs(NamedTuple):
    """The programs that create sandboxes. `crun`: a path. `gvisor` knows whether it is usable."""

    crun: str
    gvisor: Gvisor


class Sandboxes:
    """Creates, kills and destroys sandboxes. Every result comes by callback from the event loop."""

    def __init__(
        self,
        state: ServerState,
        cgroups: Cgroups,
        roots: Roots,
        programs: Programs,
        children: Children,
        egress: Egress,
    ) -> None:
        self._egress = egress
        self._state, self._cgroups, self._roots = state, cgroups, roots
        self._crun, self._gvisor = programs.crun, programs.gvisor
        self._children, self._jobs = children, Jobs(children, state.id)
        self._known: dict[str, _Sandbox] = {}
        self._retries: list[_Retry] = []
        self._most = descriptors.sandboxes(descriptors.limit())

    def create(
        self,
        spec: oci.SandboxSpec,
        done: Callable[[Created | NotCreated], None],
        with_files: Callable[[], oci.SandboxSpec] | None = None,
    ) -> None:
        """Creates a sandbox from `spec`. Its guest then runs and waits for its first frame.

        `with_files` returns the spec with mount points and files, and may raise OSError. It is
        called once there is room for the sandbox, and its network, if it needs one, is open.
        """
        by_runsc = spec.isolation == oci.GVISOR
        if by_runsc and (self._gvisor.why_not or spec.egress):
            why = self._gvisor.why_not or "it cannot have network: egress"
            done(NotCreated(f"isolation: gvisor is refused: {why}"))
            return
        if len(self._known) >= self._most:
            done(NotCreated(f"there are {self._most} sandboxes, and no files for more may be open"))
            return
        name = os.urandom(12).hex()
        try:
            uids = self._state.take_uids()
        except OSError as error:
            done(NotCreated(f"the sandbox could not be prepared: {error}"))
            return
        sandbox = _Sandbox(
            id=name,
            uid_base=uids,
            limits=spec.limits,
            by_runsc=by_runsc,
            with_files=with_files or (lambda: spec),
        )
        self._known[name] = sandbox
        if spec.egress:
            self._egress.open(
                name,
                sandbox.uid_base,
                spec.limits,
                done=lambda opened: self._connected(sandbox, opened, done),
                on_lost=lambda: self.kill(name),
            )
        else:
            self._run(sandbox, done)

    def counters(self, name: str) -> Counters:
        """The counters of the sandbox so far."""
        sandbox = self._known.get(name)
        return NOTHING if sandbox is None else self._count(sandbox)

    def used(self, name: str) -> int:
        """Bytes of memory in use. Raises OSError, also if there is no such sandbox."""
        if name not in self._known:
            raise FileNotFoundError("there is no such sandbox")
        return self._cgroups.used(self._state.id, name)

    def limit(self, name: str, limits: Limits) -> None:
        """Changes the limits. Raises OSError, also if there is no such sandbox."""
        if name not in self._known:
            raise FileNotFoundError("there is no such sandbox")
        self._cgroups.limit(self._state.id, name, limits)
        if not self._known[name].by_runsc:
            self._write_meminfo(self._known[name], limits)

    def kill(self, name: str) -> None:
        """Kills everything in the sandbox at once. `destroy` is still needed."""
        if name in self._known:
            self._cgroups.kill(self._state.id, name)

    def destroy(self, name: str, done: Callable[[Counters], None]) -> None:
        """Kills the sandbox and removes all its parts. Then calls `done` with its counters."""
        sandbox = self._known.get(name)
        if sandbox is None:
            done(NOTHING)
        elif sandbox.on_gone is not None:
            sandbox.on_gone.append(done)
        else:
            sandbox.on_gone = [done]
            if not sandbox.is_starting:
                self._end(sandbox)

    def end_all(self) -> None:
        """Destroys every sandbox that is not being destroyed yet."""
        for name, sandbox in list(self._known.items()):
            if sandbox.on_gone is None:
                self.destroy(name, lambda _: None)

    def destroy_all(self, timeout_s: float) -> None:
        """Destroys every sandbox and waits for it, at the launcher's end."""
        self.end_all()
        end = time.monotonic() + timeout_s
        while (self._known or not self._jobs.is_idle) and time.monotonic() < end:
            for key, _ in self._children.selector.select(min(0.1, self.pause_s)):
                if callable(key.data):
                    key.data()
            self.check(time.monotonic())

    @property
    def pause_s(self) -> float:
        """How long the event loop may sleep before `check` is called again."""
        return RETRY_MIN_S if self._jobs.is_pressed or self._retries else 1.0

    def check(self, now: float) -> None:
        """Periodic work: kills programs that hang, and removes leftover groups."""
        self._children.reap()
        self._egress.check_timeouts(now)
        self._jobs.check(now)
        self._retry(now)

    # The steps of a sandbox's life ------------------------------------------------------------

    def _connected(
        self,
        sandbox: _Sandbox,
        opened: EgressProxy | str,
        done: Callable[[Created | NotCreated], None],
    ) -> None:
        if isinstance(opened, str):
            self._give_up(sandbox, opened, done)
            return
        sandbox.proxy = opened
        if sandbox.on_gone is not None:
            self._give_up(sandbox, "it was given up meanwhile", done)
            return
        self._run(sandbox, done)

    def _run(self, sandbox: _Sandbox, done: Callable[[Created | NotCreated], None]) -> None:
        try:
            spec = sandbox.with_files()
            if sandbox.proxy is not None:
                binds = {**spec.binds, "/etc/resolv.conf": str(sandbox.proxy.resolv_conf)}
                spec = spec.replace(netns=sandbox.proxy.path, binds=binds)
            bundle = self._write_bundle(sandbox, spec)
            ours, guests = socket.socketpair()
        except OSError as error:
            self._give_up(sandbox, error.strerror or str(error), done)
            return
        job = Job(
            command=self._crun_command(bundle),
            done=lambda why: self._created(sandbox, ours, why, done),
            guest_socket=guests,
            prepare=lambda: self._roots.make(sandbox.id, spec),
        )
        if sandbox.by_runsc:
            job.command = self._gvisor.command(bundle)
            job.before = lambda: enter(self._cgroups, self._state.id, sandbox.id, spec.limits)
        self._jobs.add(job)

    def _crun_command(self, bundle: Path) -> list[str]:
        # With systemd's manager, the groups would have other paths than the launcher expects.
        always = ["--root", str(self._state.crun_root), "--cgroup-manager", "cgroupfs"]
        always += ["--log", str(bundle / "log")]
        run = ["run", "--detach", "--preserve-fds", "1", "--pid-file", str(bundle / "pid")]
        return [self._crun, *always, *run, "--bundle", str(bundle), bundle.name]

    def _give_up(
        self, sandbox: _Sandbox, reason: str, done: Callable[[Created | NotCreated], None]
    ) -> None:
        """Ends a sandbox for which no program was started yet."""
        answer = NotCreated(f"the sandbox could not be prepared: {reason}")
        sandbox.on_gone = [*(sandbox.on_gone or ()), lambda _: done(answer)]
        self._delete(sandbox)

    def _write_bundle(self, sandbox: _Sandbox, spec: oci.SandboxSpec) -> Path:
        bundle = self._state.bundles / sandbox.id
        bundle.mkdir(mode=0o700)
        hostname = oci.hostname_of(sandbox.id)
        self._hosts_of(sandbox).write_text(oci.hosts(hostname))
        own = {"/etc/hosts": str(self._hosts_of(sandbox))}
        if not sandbox.by_runsc:  # gVisor has a /proc of its own
            self._write_meminfo(sandbox, spec.limits)
            own["/proc/meminfo"] = str(self._meminfo_of(sandbox))
        spec = spec.replace(binds={**spec.binds, **own})
        document = oci.config(
            *self._roots.described(sandbox.id, spec),
            uid_base=sandbox.uid_base,
            cgroup=self._cgroups.path(self._state.id, sandbox.id),
            hostname=hostname,
        )
        (bundle / "config.json").write_text(json.dumps(document))
        return bundle

    def _hosts_of(self, sandbox: _Sandbox) -> Path:
        """The path of its /etc/hosts. gVisor opens it as the sandbox's user, who cannot enter a
        bundle.
        """
        return self._state.roots / f"{sandbox.id}.hosts"

    def _meminfo_of(self, sandbox: _Sandbox) -> Path:
        return self._state.roots / f"{sandbox.id}.meminfo"

    def _write_meminfo(self, sandbox: _Sandbox, limits: Limits) -> None:
        """Overwrites the file in place, since the sandbox has it mounted."""
        file = os.open(self._meminfo_of(sandbox), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(file, oci.meminfo(limits.memory_mib, MACHINE_KIB), 0)
        finally:
            os.close(file)

    def _created(
        self,
        sandbox: _Sandbox,
        ours: socket.socket,
        why: str,
        done: Callable[[Created | NotCreated], None],
    ) -> None:
        bundle = self._state.bundles / sandbox.id
        sandbox.is_starting = False
        self._roots.remove(sandbox.id)
        try:
            if sandbox.on_gone is not None:
                raise OSError("it was given up meanwhile")
            if why:
                in_log = error_in if sandbox.by_runsc else _first_line
                raise OSError(explained(in_log(bundle / "log") or why))
            if sandbox.proxy is not None and not sandbox.proxy.is_alive:
                raise OSError("its egress proxy ended")
            # A gVisor sandbox had more CPU for its start. crun has set all limits except sockets.
            limit = self._cgroups.limit if sandbox.by_runsc else self._cgroups.limit_sockets
            limit(self._state.id, sandbox.id, sandbox.limits)
            pid = int((bundle / "pid").read_text())
            try:
                self._children.watch(pid, lambda _: self._ended(sandbox))
            except (ProcessLookupError, ChildProcessError):
                raise OSError("its first process has ended at once") from None
            sandbox.pid = pid
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
        if sandbox.proxy is not None:
            sandbox.proxy.end()
        if sandbox.pid is None:
            self._delete(sandbox)

    def _ended(self, sandbox: _Sandbox) -> None:
        """Handles the end of the first process. If that was the guest, its whole pid namespace has
        ended; if it was gVisor's sentry, `_delete` kills the rest of its group.
        """
        sandbox.pid = None
        if sandbox.on_gone is not None:
            self._delete(sandbox)

    def _delete(self, sandbox: _Sandbox) -> None:
        """Removes files and groups. `crun delete` would need one more process."""
        if sandbox.by_runsc:  # the processes of gVisor share no pid namespace that would end them
            self._cgroups.kill(self._state.id, sandbox.id)
        shutil.rmtree(self._state.bundles / sandbox.id, ignore_errors=True)
        self._hosts_of(sandbox).unlink(missing_ok=True)
        self._meminfo_of(sandbox).unlink(missing_ok=True)
        shutil.rmtree(self._state.crun_root / sandbox.id, ignore_errors=True)
        sandbox.counters = self._count(sandbox)
        if sandbox.proxy is None:
            self._remove(sandbox)
        else:
            self._egress.close(sandbox.proxy, lambda: self._remove(sandbox))

    def _count(self, sandbox: _Sandbox) -> Counters:
        blocked, refused = NOTHING_BLOCKED if sandbox.proxy is None else sandbox.proxy.counted()
        try:
            cpu_us = self._cgroups.cpu_us(self._state.id, sandbox.id)
        except (OSError, ValueError):  # no group yet, or the host does not count CPU time
            cpu_us = sandbox.counters.cpu_us
        return Counters(blocked, cpu_us, refused)

    def _remove(self, sandbox: _Sandbox) -> None:
        if self._are_groups_gone(sandbox):
            self._forget(sandbox)
        else:
            now = time.monotonic()
            self._retries.append(
                _Retry(
                    sandbox=sandbox,
                    pause_s=RETRY_MIN_S,
                    next_at=now + RETRY_MIN_S,
                    answer_at=now + ANSWER_S,
                )
            )

    def _are_groups_gone(self, sandbox: _Sandbox) -> bool:
        names = [sandbox.id] if sandbox.proxy is None else [sandbox.id, sandbox.id + SUFFIX]
        return False not in [self._cgroups.remove(self._state.id, name) for name in names]

    def _retry(self, now: float) -> None:
        """Kills the remaining processes of leftover groups, and tries to remove the groups."""
        for retry in list(self._retries):
            if now >= retry.next_at:
                retry.pause_s = min(2 * retry.pause_s, RETRY_MAX_S)
                retry.next_at = now + retry.pause_s
                self._cgroups.kill(self._state.id, retry.sandbox.id)
                if self._are_groups_gone(retry.sandbox):
                    self._retries.remove(retry)
                    self._forget(retry.sandbox)
                elif now >= retry.answer_at:
                    self._tell(retry.sandbox)

    def _forget(self, sandbox: _Sandbox) -> None:
        """Call it once nothing of the sandbox is left: another one may then get its uids."""
        self._state.give_back_uids(sandbox.uid_base)
        del self._known[sandbox.id]
        self._tell(sandbox)

    def _tell(self, sandbox: _Sandbox) -> None:
        waiting, sandbox.on_gone = sandbox.on_gone or (), []
        for done in waiting:
            done(sandbox.counters)


def _first_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[0] if lines else ""
    return ""
