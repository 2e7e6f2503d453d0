"""A real `quiltfn serve` for tests: it has its own directories and a free port, and tests end it
only by its pids.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import httpx

import sqlite_template
from e2e import commands, leftovers
from timeouts import scaled

QUILTFN = Path(sys.executable).parent / "quiltfn"
CRUN = "/usr/bin/crun"
RUNSC = "/usr/bin/runsc"
GVISOR = f"--runsc {RUNSC}"
# With `scripts/soak hostile`, tests of attacks make all attempts, each for up to five minutes.
IN_FULL = bool(os.environ.get("QUILTFN_HOSTILE_IN_FULL"))
CLIENT_TIMEOUT_S = 400 if IN_FULL else 60
# The parents of the servers' control groups: with cgroup v1, and with v2.
HOMES = (Path("/sys/fs/cgroup/pids/quiltfn"), Path("/sys/fs/cgroup/quiltfn"))
READY = re.compile(r"listening on (http://[\d.]+:\d+)\n")
START_S, STOP_S = 40.0, 45.0  # the time limit before `scaled`
_names = itertools.count(1)


def why_not() -> str | None:
    """The reason why no real server can be started here; None: it can."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.access(CRUN, os.X_OK):
        return f"needs {CRUN}"
    if not QUILTFN.exists():
        return f"needs {QUILTFN}"
    if "cgroup" not in Path("/proc/self/mountinfo").read_text():
        return "needs control groups"
    return None


def until(holds: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Polls `holds` until its value is true, and returns the value."""
    began = time.monotonic()
    while True:
        value = holds()
        if value:
            return value
        passed_s = time.monotonic() - began
        assert passed_s < scaled(timeout_s), f"not within {scaled(timeout_s)} s: {holds}"
        # Polling takes CPU time, and after a long wait a small delay does not matter.
        time.sleep(min(max(0.01, passed_s / 20), 0.05))


@contextlib.contextmanager
def short_dir() -> Iterator[Path]:
    """A directory that every user can reach: a sandbox's root user must reach the root
    image in it.
    """
    path = Path(tempfile.mkdtemp(prefix="quiltfn-test-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@dataclass
class Completed:
    """A `quiltfn` command that ended by itself."""

    code: int
    stdout: str
    stderr: str


def quiltfn(
    *arguments: str,
    timeout_s: float = 30.0,
    own_process: bool = False,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    # otherwise, a piped input would become the payload
    stdin: int | IO[bytes] = subprocess.DEVNULL,
) -> Completed:
    """Runs a command until it ends. `own_process`: starts a new Python process instead of forking
    one that has loaded the modules (see `e2e/commands.py`). Tests with threads need this, since one
    thread could take another's exit code.
    """
    words, env = [str(QUILTFN), *arguments], os.environ if env is None else env
    is_own = own_process or arguments[0] == commands.NEVER_FORKED or stdin != subprocess.DEVNULL
    if not is_own:
        return Completed(*commands.run(words, scaled(timeout_s), cwd=cwd or os.getcwd(), env=env))
    done = subprocess.run(
        words,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=scaled(timeout_s),
        check=False,
        cwd=cwd,
        env=env,
    )
    return Completed(done.returncode, done.stdout, done.stderr)


class AnyServer(Protocol):
    """One server, or several servers that share their data."""

    @property
    def url(self) -> str:
        """The address for the next request."""

    @property
    def headers(self) -> dict[str, str]: ...

    def call(self, method: str, path: str, json: Any = None) -> httpx.Response: ...

    def deploy(self, handler: str, **fields: Any) -> Function: ...


def pages(server: AnyServer, path: str, name: str, query: str = "") -> list[dict[str, Any]]:
    """All items of a list, read page by page. `query`: a filter, as &NAME=VALUE."""
    found, cursor = list[dict[str, Any]](), ""
    while True:
        answer = server.call("GET", f"{path}?limit=1000{query}{cursor}")
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page[name]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


class Server:
    """One server, which a test can restart on the same two directories.

    `makes_database`: whether the server creates its database, instead of a copied one. The server
    looks for gVisor only if `options` has `GVISOR`, as in tests with the marker `gvisor`, since
    looking for it takes a quarter of a start.
    """

    makes_database = False

    def __init__(
        self,
        root: Path,
        *,
        run_dir: Path | None = None,
        crun: str = CRUN,
        options: str = "",
        data_dir: Path | None = None,
        program: Sequence[str] = (),
    ) -> None:
        self.root, self.run_dir = root, run_dir or root / "run"
        self.data_dir = data_dir or root / "data"
        self._command = [
            *(program or [str(QUILTFN)]),
            "serve",
            "--port",
            "0",
            "--crun",
            crun,
            "--runsc",
            "/not/wanted/runsc",
            *options.split(),
        ]
        self._command += ["--data-dir", str(self.data_dir), "--run-dir", str(self.run_dir)]
        self.headers: dict[str, str] = {}  # the headers of every request
        # the id of every server process that has run in these directories
        self.ids: set[str] = set()
        # the options of commands that manage keys
        self.key_options: Sequence[str] = ("--data-dir", str(self.data_dir))
        self.process: subprocess.Popen[bytes] | None = None
        self.log = root / "stderr"
        self.url = ""
        self._threads = ThreadPoolExecutor(64)

    # Start and end ---------------------------------------------------------------------------

    def start(self) -> Server:
        before = self.server_dirs()
        self.start_without_waiting()
        line = self._first_line()
        ready = READY.fullmatch(line)
        assert ready, f"instead of the ready line: {line!r}\n{self.log.read_text()}"
        self.url = ready[1]
        self.http = httpx.Client(
            base_url=self.url,
            headers=self.headers,
            timeout=scaled(CLIENT_TIMEOUT_S),
            trust_env=False,
            verify=False,  # without HTTPS there is no certificate to verify
            limits=httpx.Limits(max_connections=128),
        )
        self.id = (self.server_dirs() - before).pop()
        self.ids.add(self.id)
        self.pid = until(self.server_pid)
        return self

    def runs(self, program: Sequence[str]) -> None:
        """Use this program from the next start on."""
        self._command = [*program, *self._command[self._command.index("serve") :]]

    def start_without_waiting(self) -> None:
        """Starts the server without waiting for the ready line.

        At its first start, the server finds an empty database with tables, since creating one takes
        a sixth of a start. The tests of the wheel, of a full disk, of documents, and
        `contract/test_store_start.py` let the server create it.
        """
        elsewhere = {"--store", "--fleet"} & set(self._command)
        if not (elsewhere or self.makes_database or self.data_dir.exists()):
            self.data_dir.mkdir(mode=0o700)
            sqlite_template.with_schema(self.data_dir)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    @property
    def launcher(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def sandbox_files(self) -> Path:
        """crun's configuration and state of each sandbox, in the launcher's mount namespace."""
        run_dir = self.run_dir.resolve().relative_to("/")
        return Path(f"/proc/{self.launcher}/root", run_dir, "servers", self.id, "sandboxes")

    def terminate(self) -> None:
        os.kill(self.launcher, signal.SIGTERM)

    def wait(self, timeout_s: float = STOP_S) -> int:
        assert self.process is not None
        code = self.process.wait(scaled(timeout_s))
        self._forget()
        return code

    def stop(self) -> None:
        """Sends SIGTERM, and checks that the exit code is 0."""
        if self.process is None:
            return
        self.terminate()
        code = self.wait()
        assert code == 0, f"after SIGTERM: exit code {code}\n{self.log.read_text()}"

    def kill_server(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def kill_launcher(self) -> None:
        os.kill(self.launcher, signal.SIGKILL)

    def restart(self) -> Server:
        self.stop()
        return self.start()

    def close(self) -> None:
        """Ends all processes of this server, in any state."""
        try:
            if self.process is not None:
                self.terminate()
                try:
                    self.process.wait(scaled(5))
                except subprocess.TimeoutExpired:
                    self.terminate()  # a failed test may leave running invocations
                code = self.wait()
                assert code == 0, f"after SIGTERM: exit code {code}\n{self.log.read_text()}"
        finally:
            if self.process is not None:
                self.process.kill()
                self.wait()
            self._threads.shutdown()

    def _forget(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        if hasattr(self, "http"):
            self.http.close()

    def _first_line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        out, line, end = self.process.stdout, b"", time.monotonic() + scaled(START_S)
        with selectors.DefaultSelector() as ready:
            ready.register(out, selectors.EVENT_READ)
            while not line.endswith(b"\n") and time.monotonic() < end:
                if ready.select(end - time.monotonic()):
                    byte = os.read(out.fileno(), 1)
                    if not byte:
                        break
                    line += byte
        return line.decode()

    def server_dirs(self) -> set[str]:
        servers = self.run_dir / "servers"
        return {one.name for one in servers.iterdir()} if servers.is_dir() else set()

    def server_pid(self) -> int | None:
        for pid in children(self.launcher):
            with contextlib.suppress(OSError):
                if b"quiltfn.server.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    # Requests and observations of a test -----------------------------------------------------

    def call(self, method: str, path: str, json: Any = None) -> httpx.Response:
        return self.http.request(method, path, json=json)

    def later(self, work: Callable[..., Any], *arguments: Any, **more: Any) -> Future[Any]:
        """Runs `work` in its own thread."""
        return self._threads.submit(work, *arguments, **more)

    def is_ready(self) -> bool:
        """Whether each part that an invocation needs is healthy."""
        return bool(self.call("GET", "/api/functions/health").json()["ready"])

    def until_ready(self, timeout_s: float = 10.0) -> dict[str, Any]:
        """Waits until each part that an invocation needs is healthy; returns the health report. On
        a busy disk, a server that has just started may take longer than the three seconds that
        health waits for the store.
        """
        reports: list[dict[str, Any]] = []

        def is_ready() -> bool:
            reports.append(self.call("GET", "/api/functions/health").json())
            return bool(reports[-1]["ready"])

        try:
            until(is_ready, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"it did not become ready: {reports[-1]}") from error
        return reports[-1]

    def create(self, handler: str, **fields: Any) -> Function:
        """A new function. On a busy machine, a node of a fleet with short time limits may be fenced
        for a moment, and asks its clients to repeat the request.
        """
        name = fields.pop("name", None) or f"f{next(_names)}"
        wanted = {"name": name, "handler": handler, **fields}

        def answered() -> httpx.Response | None:
            answer = self.call("POST", "/api/functions", wanted)
            is_fenced = (
                answer.status_code == 503 and answer.json()["error_code"] == "STORE_UNAVAILABLE"
            )
            return None if is_fenced else answer

        answer = until(answered)
        assert answer.status_code == 201, answer.text
        return Function(self, answer.json()["function_id"])

    def deploy(self, handler: str, **fields: Any) -> Function:
        """A function that is active."""
        function = self.create(handler, **fields)
        state = function.deploy()
        assert state["state"] == "active", state
        return function

    def run(self, handler: str, payload: str | None = None, **fields: Any) -> dict[str, Any]:
        """Invokes a new function once, and deletes it."""
        function = self.deploy(handler, **fields)
        record = function.invoke(payload)
        function.delete()
        return record

    def clear(self) -> None:
        """Deletes the functions of the client's tenant, their schedules, and the tenant's
        runtimes.
        """
        for function in self.call("GET", "/api/functions?limit=1000").json()["functions"]:
            self.call("DELETE", f"/api/functions/{function['id']}")
        for runtime in self.call("GET", "/api/runtimes").json()["runtimes"]:
            if not runtime["built_in"]:
                self.call("DELETE", f"/api/runtimes/{runtime['name']}")

    def rss_kib(self) -> int:
        return int(status_of(self.pid)["VmRSS"].split()[0])

    def sandbox_pids(self) -> dict[str, list[int]]:
        """The pids on the host of all processes in each of this server's sandboxes, including
        zombies.

        Reads them from the control groups: tests poll this, and reading each process of the host
        would take 10 ms of CPU time.
        """
        found: dict[str, list[int]] = {}
        home = next((path for top in HOMES if (path := top / self.id).is_dir()), None)
        if home is None or self.process is None or not is_alive(self.launcher):
            others: Iterable[int] = map(int, filter(str.isdigit, os.listdir("/proc")))
        else:
            for sandbox in directories(home):
                for group in (sandbox, *directories(sandbox)):
                    if pids := numbers(group / "cgroup.procs"):
                        found.setdefault(sandbox.name, []).extend(pids)
            # cgroup.procs omits zombies; they are found as children of another process.
            known = set(itertools.chain(*found.values()))
            others = {one for pid in (*known, self.launcher) for one in all_children(pid)} - known
        for pid in others:
            with contextlib.suppress(OSError):
                own = Path(f"/proc/{pid}/cgroup").read_text()
                if its := re.search(rf"/quiltfn/{self.id}/([0-9a-f]+)", own):
                    found.setdefault(its[1], []).append(pid)
        return found

    def cpu_percents(self) -> dict[str, int]:
        """The CPU limit of each sandbox that has one, in percent of a CPU."""
        found = {}
        for group in Path("/sys/fs/cgroup").glob(f"**/quiltfn/{self.id}/*"):
            with contextlib.suppress(OSError, ValueError):
                if (group / "cpu.max").exists():
                    quota, period = map(int, (group / "cpu.max").read_text().split())
                else:
                    quota = int((group / "cpu.cfs_quota_us").read_text())
                    period = int((group / "cpu.cfs_period_us").read_text())
                if quota > 0:
                    found[group.name] = round(100 * quota / period)
        return found

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        lines = self.call("GET", "/metrics").text.splitlines()
        (value,) = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
        return float(value)

    def prewarmed(self) -> int:
        """The number of prewarmed sandboxes that are ready for use."""
        return int(self.metric("quiltfn_prewarmed_sandboxes"))

    def guests(self) -> dict[str, int]:
        """The pid of the first process of every sandbox that has one, by the sandbox's name."""
        return {
            name: pid for name, pids in self.sandbox_pids().items() for pid in pids if is_first(pid)
        }

    def guest_of(self, comm: str) -> int:
        """The pid of the first process in the sandbox in which a process of this name runs."""
        named = set(until(lambda: self.named(comm)))
        guests, everybody = self.guests(), self.sandbox_pids()
        return next(guests[name] for name, pids in everybody.items() if named & set(pids))

    def named(self, comm: str) -> list[int]:
        """The pids of processes of this name in all sandboxes."""
        found = []
        for pid in itertools.chain(*self.sandbox_pids().values()):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == comm:
                    found.append(pid)
        return found

    def wake(self, count: int = 1) -> None:
        """Waits until `count` processes `sleep` run in handlers, and ends these processes."""
        until(lambda: len(self.named("sleep")) >= count)
        for pid in self.named("sleep"):
            # a fatal signal that shells do not report in their output
            os.kill(pid, signal.SIGPIPE)


@dataclass
class Function:
    """A function of a server under test."""

    server: Server
    id: str

    @property
    def path(self) -> str:
        return f"/api/functions/{self.id}"

    def deploy(self) -> dict[str, Any]:
        answer = self.server.call("POST", f"{self.path}/deploy")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def try_invoke(self, payload: str | None = None, **body: Any) -> httpx.Response:
        if payload is not None:
            body["payload"] = payload
        return self.server.call("POST", f"{self.path}/invoke", body)

    def invoke(self, payload: str | None = None, **body: Any) -> dict[str, Any]:
        answer = self.try_invoke(payload, **body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def records(self) -> dict[str, dict[str, Any]]:
        """All records. On a busy machine, a page ends at its time limit."""
        found = pages(self.server, f"{self.path}/invocations", "invocations")
        return {one["invocation_id"]: one for one in found}

    def pool(self) -> dict[str, Any]:
        return self.server.call("GET", f"{self.path}/pool").json()

    def delete(self) -> None:
        answer = self.server.call("DELETE", self.path)
        assert answer.status_code == 204, answer.text


@contextlib.contextmanager
def watched(
    options: str = "", kind: Callable[..., Server] = Server, **more: Any
) -> Iterator[Server]:
    """Yields a server that is not started yet. At the end, checks that it has left nothing on the
    host.

    `options`: options of `quiltfn serve`; ROOT stands for the server's own directory. `more`:
    further arguments of `kind`.
    """
    with short_dir() as root:
        # no running process can have the name of the new directory
        before = leftovers.look(None, root / "run", ())
        server = kind(root, options=options.replace("ROOT", str(root)), **more)
        try:
            yield server
        finally:
            server.close()
        left = leftovers.nothing_since(before, root, server.run_dir, server.ids)
        assert not left, f"left on the host: {left}\n{server.log.read_text()}"


def children(pid: int) -> list[int]:
    return numbers(Path(f"/proc/{pid}/task/{pid}/children"))


def keeper_of(launcher: int) -> int:
    """The child of the launcher that runs the launcher's own program again: its keeper."""

    def program(pid: int) -> bytes:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        return b""

    wanted = program(launcher)
    return until(lambda: next((one for one in children(launcher) if program(one) == wanted), 0))


def all_children(pid: int) -> list[int]:
    """The children of all threads of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += numbers(Path(f"/proc/{pid}/task/{task}/children"))
    return found


def numbers(file: Path) -> list[int]:
    """The numbers in a file of the kernel; an empty list if the file is gone."""
    with contextlib.suppress(OSError):
        return [int(one) for one in file.read_text().split()]
    return []


def directories(group: Path) -> list[Path]:
    """The child groups of a control group."""
    with contextlib.suppress(OSError), os.scandir(group) as found:
        return [Path(one.path) for one in found if one.is_dir(follow_symlinks=False)]
    return []


def status_of(pid: int) -> dict[str, str]:
    """The fields of /proc/<pid>/status."""
    return parse_status(Path(f"/proc/{pid}/status").read_text())


def statuses_of(pids: Iterable[int]) -> Iterator[dict[str, str]]:
    """The statuses of the processes that still exist."""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield status_of(pid)


def parse_status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def is_first(pid: int) -> bool:
    """Whether the process is pid 1 in its namespace. The order of the pids on the host does not
    show this.
    """
    with contextlib.suppress(OSError):
        return status_of(pid)["NSpid"].split()[-1] == "1"
    return False


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return not status_of(pid)["State"].startswith("Z")
    return False
