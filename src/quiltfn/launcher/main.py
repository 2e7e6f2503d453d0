"""The launcher's life: prepare the machine, start the server, serve its requests, clean up.

Exit codes: 0 drained after SIGTERM, SIGINT or SIGQUIT; 69 this machine or address cannot be used;
70 the server ended unexpectedly (everything was swept; a supervisor starts both again); 73 the data
directory cannot be used; 74 another server has it; 77 not root; the server's own exit code if it
could not start.
"""

import contextlib
import errno
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quiltfn.base.immutable import Frozen
from quiltfn.launcher import (
    cgroups,
    confine,
    descriptors,
    global_limit,
    host_image,
    images,
    oci,
    preflight,
    roots,
    signals,
    state,
    syscalls,
    verbs,
)
from quiltfn.launcher.children import Children
from quiltfn.launcher.deadline import Deadline
from quiltfn.launcher.egress import Egress
from quiltfn.launcher.gvisor import Gvisor
from quiltfn.launcher.jobs import cannot_start
from quiltfn.launcher.keeper import Keeper
from quiltfn.launcher.sandboxes import Created, NotCreated, Programs, Sandboxes
from quiltfn.launcher.server_uid import InUse, ServerUid

UNUSABLE, SERVER_DIED, NO_DATA_DIR, IN_USE, NOT_ROOT = 69, 70, 73, 74, 77
LEAVE_TIMEOUT_S = 10.0
# Maximum number of requests that are served before the event loop handles other events again.
REQUESTS_AT_ONCE = 64
# The limit on processes and threads of the server, which has some forty threads.
SERVER_TASKS = 1024
# Makes the server return the memory of large objects (bodies, responses, handlers, chunks of
# output) to the system once they are freed. By default the C library keeps up to 32 MiB of each
# size. With a threshold of 256 KiB, handlers and chunks of 64 KiB left holes that took 80 MiB.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "1048576",
    "MALLOC_ARENA_MAX": "2",
}
# Up to three name servers are queried once each, so that a thread that resolves a callback's host
# is free when the callback times out. Otherwise two tenants with silent servers could block all
# threads.
NAMES = {"RES_OPTIONS": "timeout:4 attempts:1"}
LATE = "this node has not been heard of for too long, and may start nothing until it is again"
ROOTLESS = (
    "quiltfn serve must be started as root: making user namespaces with their own uid ranges, "
    "control groups with limits and a private mount namespace needs it. The HTTP server itself "
    "gives root up before it listens. A rootless mode would need subordinate uids (newuidmap) and "
    "a delegated control group, and would have to say which limits it cannot enforce; it does not "
    "exist yet."
)


class Options(Frozen):
    """`server`: the server's command line. `given`: the server's options as JSON. The launcher adds
    the host facts and passes it in memory, since every user can read a command line. `program`: the
    paths of the server's program. `output_max`: as in `oci.Host`. `room`: the maximum limits of one
    sandbox, by the names of `SandboxLimits`.
    """

    host: str
    port: int
    data_dir: Path
    run_dir: Path
    guest: Path
    server: Sequence[str]
    given: Mapping[str, object]
    program: Sequence[Path]
    crun: str
    room: Mapping[str, Any]
    runsc: str = "/usr/bin/runsc"
    egress_dns: str = ""
    output_max: tuple[int, ...] | None = None


class CannotStart(Exception):
    """A sentence for the operator, with an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def run(options: Options) -> int:
    """Runs until the server has ended; returns the exit code."""
    try:
        return Launcher(options).run()
    except CannotStart as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        return error.code


class Launcher:
    """The state of the launcher while it runs."""

    def __init__(self, options: Options) -> None:
        if os.geteuid() != 0:
            raise CannotStart(ROOTLESS, NOT_ROOT)
        if not os.access(options.crun, os.X_OK):
            raise CannotStart(
                f"there is no OCI runtime at {options.crun}: apt install crun", UNUSABLE
            )
        self.options = options
        self.listener = _listen(options.host, options.port)
        try:
            confine.check_reachable(options.run_dir)
        except (confine.NotReadable, OSError) as error:
            raise CannotStart(str(error), NO_DATA_DIR) from None
        self.selector = selectors.DefaultSelector()
        self.children = Children(self.selector)
        self.memory_max_mib = global_limit.machine_memory() // global_limit.MIB
        self.cores = len(os.sched_getaffinity(0))
        self.most = cgroups.SandboxLimits(
            memory_mib=self.memory_max_mib, cpu_percent=100.0 * self.cores, **options.room
        )
        self._started_stopping = False
        self.server = 0
        self._server_code: int | None = None

    def run(self) -> int:
        self._watch_signals()
        os.umask(0o022)
        if descriptors.raise_limit() < descriptors.LEAST:
            raise CannotStart(
                f"only {descriptors.limit()} files may be open, and it needs {descriptors.LEAST}: "
                "raise the hard limit (ulimit -Hn, or LimitNOFILE of the unit)",
                UNUSABLE,
            )
        syscalls.unshare_mounts()
        syscalls.adopt_orphans()
        try:
            groups = cgroups.detect()
            # Done first, since leftovers of a dead server may hold the data directory.
            swept = state.sweep(self.options.run_dir, groups)
            self.owner = self._take_data_dir()
            self.state = state.ServerState(self.options.run_dir)
            groups.prepare(self.state.id)
        except (cgroups.CgroupsUnusable, OSError) as error:
            raise CannotStart(str(error), UNUSABLE) from None
        if swept["servers"]:
            print(
                f"quiltfn: swept what {swept['servers']} ended server(s) had left, "
                f"{swept['sandboxes']} sandbox(es) among it",
                file=sys.stderr,
            )
        self.keeper = Keeper(lambda: state.end_groups(self.state.id, groups))
        try:
            self._start_keeper(0)
            return self._serve(groups)
        finally:
            _, all_ended = state.end_everything(self.state.id, groups)
            if hasattr(self, "images"):
                self.images.close()
            self.state.close(all_ended=all_ended)
            self.keeper.end()
            self.owner.close()
            if not all_ended:
                print("quiltfn: not every process has ended; see doctor --sweep", file=sys.stderr)

    def _take_data_dir(self) -> ServerUid:
        try:
            return ServerUid(self.options.data_dir)
        except InUse as error:
            raise CannotStart(str(error), IN_USE) from None
        except (confine.NotReadable, OSError) as error:
            raise CannotStart(str(error), NO_DATA_DIR) from None

    def _start_keeper(self, _code: int) -> None:
        """Starts the keeper, also after it was killed: it ends whatever outlives the launcher."""
        try:
            self.children.watch_new(self.keeper.start(), self._start_keeper)
        except OSError as error:
            raise CannotStart(cannot_start("the keeper", error), UNUSABLE) from None

    def _serve(self, groups: cgroups.Cgroups) -> int:
        self.groups = groups
        self.skeleton = host_image.build(self.state.root, self.options.guest)
        self.base_skeleton = host_image.build_for_bases(self.state.base_root, self.skeleton)
        host = self.skeleton.host.replace(limits=groups.view(), output_max=self.options.output_max)
        self.images = images.Images(self.options.data_dir / "images", self.state.images)
        self.roots = sandbox_roots = roots.Roots(self.state.roots, host, self.state.base_root)
        egress = Egress(self.state, groups, self.children, dns=self.options.egress_dns)
        gvisor = Gvisor(self.options.runsc)
        programs = Programs(self.options.crun, gvisor)
        self.sandboxes = Sandboxes(
            self.state, groups, sandbox_roots, programs, self.children, egress
        )
        self.deadline = Deadline(self.sandboxes.end_all)
        try:
            data = self.options.data_dir
            images_dir = data / "images"
            inodes = sandbox_roots.check(images_dir if images_dir.is_dir() else data)
            above = global_limit.put_above(groups, global_limit.of_this_machine())
            seen = preflight.check(self.sandboxes, self.state, groups, self._turn)
            seen["ceiling"] = above  # the API's field has this name
            seen["inodes"] = inodes
            seen["egress"] = preflight.check_egress(egress, self.state, self._turn)
            seen["gvisor"] = preflight.check_gvisor(
                gvisor, self.sandboxes, self.state, groups, self._turn
            )
        except (cgroups.CgroupsUnusable, preflight.PreflightFailed) as error:
            raise CannotStart(str(error), UNUSABLE) from None
        facts = {
            "cgroup_mode": groups.mode,
            "protections": seen,
            "memory_max_mib": self.memory_max_mib,
            "cores": self.cores,
            "oci_runtime": self.options.crun,
            "no_gvisor": gvisor.why_not,
        }
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.server = self._start_server(theirs, facts)
            self.children.watch_new(self.server, self._server_ended)
        except OSError as error:
            raise CannotStart(cannot_start("the server", error), UNUSABLE) from None
        theirs.close()
        self.listener.close()
        self.channel.setblocking(False)
        self.selector.register(self.channel, selectors.EVENT_READ, self._requests)
        while self._server_code is None:
            self._turn()
        self.sandboxes.destroy_all(LEAVE_TIMEOUT_S)
        return self._exit_code(self._server_code)

    def _server_ended(self, code: int) -> None:
        self._server_code = code
        self.groups.kill(self.state.id, cgroups.OF_SERVER)  # kills its child processes
        self._hang_up()  # drops its pending requests

    def _exit_code(self, server: int) -> int:
        # A server that is still starting has no signal handler, so SIGTERM kills it.
        if self._started_stopping and server in (0, -signal.SIGTERM):
            return 0
        if 64 <= server <= 78:  # the server refused to start, and reported why
            return server
        how = f"was killed by signal {-server}" if server < 0 else f"ended with {server}"
        print(f"quiltfn: the server {how}; its sandboxes were swept", file=sys.stderr)
        return SERVER_DIED

    def _start_server(self, channel: socket.socket, facts: dict[str, object]) -> int:
        """Forks the server, which drops root and then executes its program."""
        launcher = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            signals.give_to_server()
            self.groups.enter_alone(self.state.id)
            syscalls.unshare_mounts()
            confine.reveal(self.options.program, self.options.data_dir)
            resource.setrlimit(resource.RLIMIT_NPROC, (SERVER_TASKS, SERVER_TASKS))
            confine.give_up_root(launcher, self.owner.uid)
            given = os.memfd_create("given")
            os.write(given, json.dumps({**self.options.given, "facts": facts}).encode())
            for kept in (channel.fileno(), self.listener.fileno(), given):
                os.set_inheritable(kept, True)
            os.chdir("/")
            arguments = [
                *self.options.server,
                f"--channel={channel.fileno()}",
                f"--listener={self.listener.fileno()}",
                f"--given={given}",
            ]
            own = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/"}
            environment = {**own, **ALLOCATOR, **NAMES}
            os.execve(arguments[0], arguments, environment)
        except BaseException as error:
            print(f"quiltfn: the server could not be started: {error}", file=sys.stderr)
        os._exit(UNUSABLE)

    # The event loop --------------------------------------------------------------------------

    def _turn(self) -> None:
        for key, _ in self.selector.select(self.deadline.left_s(self.sandboxes.pause_s)):
            if callable(key.data):
                key.data()
        self.deadline.check()
        self.sandboxes.check(time.monotonic())

    def _watch_signals(self) -> None:
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        self._signal_ends = (reader, writer)  # kept here, or garbage collection would close them
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        signals.take_over()
        self.selector.register(reader, selectors.EVENT_READ, self._signalled)

    def _signalled(self) -> None:
        for number in self._signal_ends[0].recv(64):
            if number in signals.DRAINING:
                self._started_stopping = True
                if self.server:
                    self.children.signal(self.server, signal.SIGTERM)
                else:
                    raise CannotStart("stopped before the server was started", 0)

    def _requests(self) -> None:
        """Serves a limited number of packets: a server that floods the launcher must not stop its
        other work. Kills a server that sends an invalid packet.
        """
        for _ in range(REQUESTS_AT_ONCE):
            try:
                packet = self.channel.recv(verbs.MESSAGE_MAX)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._hang_up()
                return
            try:
                verb = verbs.parse(packet, most=self.most)
            except verbs.Refused as error:
                print(f"quiltfn: refused the server's request: {error}", file=sys.stderr)
                self.children.kill(self.server)
                return
            self._perform(verb)

    def _hang_up(self) -> None:
        with contextlib.suppress(KeyError):  # already unregistered
            self.selector.unregister(self.channel)

    def _perform(self, verb: verbs.Verb) -> None:
        n = verb.n
        match verb:
            case verbs.SetDeadline(deadline=deadline):
                self.deadline.set(deadline)
                self._answer({"n": n})
            case verbs.Create() if self.deadline.is_late(verb.deadline):
                # The server or the launcher may have been stalled.
                self._answer({"n": n, "error": LATE})
            case verbs.Create():
                # crun cannot set a limit above the launcher's own.
                files = min(verb.limits.open_files, descriptors.limit())
                spec = oci.SandboxSpec(
                    limits=verb.limits.replace(open_files=files),
                    writable_paths=verb.writable_paths,
                    egress=verb.network == "egress",
                    isolation=verb.isolation,
                )
                self.sandboxes.create(
                    spec,
                    lambda answer: self._answer_create(n, answer),
                    lambda: self._with_files(spec, verb),
                )
            case verbs.Limit(sandbox=sandbox, limits=limits):
                try:
                    self.sandboxes.limit(sandbox, limits)
                except OSError as error:
                    self._answer({"n": n, "error": f"its limits cannot be set: {error}"})
                else:
                    self._answer({"n": n})
            case verbs.OnSandbox(verb="kill", sandbox=sandbox):
                self.sandboxes.kill(sandbox)
                self._answer({"n": n})
            case verbs.OnSandbox(verb="used", sandbox=sandbox):
                try:
                    self._answer({"n": n, "bytes": self.sandboxes.used(sandbox)})
                except (OSError, ValueError) as error:
                    self._answer({"n": n, "error": f"its memory cannot be read: {error}"})
            case verbs.OnSandbox(verb="counters", sandbox=sandbox):
                self._answer({"n": n, **self.sandboxes.counters(sandbox)._asdict()})
            case verbs.OnSandbox(sandbox=sandbox):
                self.sandboxes.destroy(
                    sandbox, lambda counters: self._answer({"n": n, **counters._asdict()})
                )

    def _with_files(self, spec: oci.SandboxSpec, verb: verbs.Create) -> oci.SandboxSpec:
        """Mounts the files of a sandbox; only once it is admitted, since this changes the host.
        Raises OSError.
        """
        try:
            skeleton = self.skeleton if verb.base_image is None else self.base_skeleton
            skeleton.make_mount_points(spec.writable_paths)
            app, base, packages = (
                None if one is None else self.images.path(one)
                for one in (verb.image, verb.base_image, verb.packages)
            )
            spec = spec.replace(app=app, base=base, packages=packages)
            if verb.image is None or verb.packages is None or self.roots.is_overlaid(spec):
                return spec
            return spec.replace(app=self.images.pair(verb.image, verb.packages), packages=None)
        except OSError as error:
            raise OSError(f"its files cannot be mounted: {error}") from None

    def _answer_create(self, n: int, answer: Created | NotCreated) -> None:
        if isinstance(answer, NotCreated):
            self._answer({"n": n, "error": answer.reason})
            return
        with answer.control:
            handed = [answer.control.fileno(), answer.events]
            self._answer({"n": n, "sandbox": answer.sandbox}, handed)
        os.close(answer.events)

    def _answer(self, message: dict[str, object], descriptors: Sequence[int] = ()) -> None:
        data = json.dumps(message).encode()
        # The server always reads, so a full buffer means that it hangs. Waiting here delays all
        # other sandboxes, so it gets one second.
        self.channel.settimeout(1.0)
        try:
            socket.send_fds(self.channel, [data], list(descriptors))
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                print(f"quiltfn: the server does not take answers: {error}", file=sys.stderr)
                self.children.kill(self.server)
        finally:
            self.channel.setblocking(False)


def _listen(host: str, port: int) -> socket.socket:
    """Binds the address as root, so that ports below 1024 work. The server listens without root."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        sentence = f"cannot use {host}:{port}: {error.strerror or error}"
        raise CannotStart(sentence, UNUSABLE) from None
    return listener
