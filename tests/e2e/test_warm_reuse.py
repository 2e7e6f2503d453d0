"""What an invocation leaves for the next one on its instance, in runtimes whose interpreter stays.

With `cleanup_on_exit` nothing survives. Without it, the interpreter's state may survive: modules,
environment, directory, threads, open files, /tmp, /dev/shm and System V objects; processes never
do.
"""

import json
from typing import Any

import pytest

from e2e.sample_runtimes import node, python
from e2e.server import Server, until
from promises import promise

pytestmark = pytest.mark.sandbox

LOOK = """
import ctypes, gc, os, resource, signal, socket, sys, threading
cache = []
def state():
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/status") as file:
        masks = [line for line in file if line.startswith(("Sig", "Shd", "Threads", "NoNewPrivs"))]
    ipc = [open(f"/proc/sysvipc/{kind}").read().count("\\n") for kind in ("shm", "sem", "msg")]
    files = sorted(os.listdir("/tmp") + os.listdir("/dev/shm"))
    abstract = sorted(
        line.split()[-1] for line in open("/proc/net/unix") if line.split()[-1].startswith("@")
    )
    os.umask(mask := os.umask(0))
    processes = [name for name in os.listdir("/proc") if name.isdigit()]
    return {
        "environment": sorted(name for name in os.environ if not name.startswith("QUILT_")),
        "cwd": os.getcwd(), "umask": mask, "nice": os.nice(0), "masks": masks, "files": files,
        "ipc": ipc, "abstract": abstract, "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "name": open("/proc/self/comm").read(), "descriptors": sorted(os.listdir("/proc/self/fd")),
        "processes": len(processes), "path": sys.path[:3], "cache": len(cache),
        "patched": hasattr(json_module, "patched"), "threads": threading.active_count(),
        "locks": sum("POSIX" in line for line in open("/proc/locks")),
    }
import json as json_module
kept = []
def handler(event):
    if event == "spoil":
        spoil()
        return "spoilt"
    return state()
def spoil():
    os.environ["SPOILT"] = "1"
    os.chdir("/tmp")
    os.umask(0)
    os.nice(3)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(15, b"spoilt", 0, 0, 0)
    open("/tmp/left", "w").write("x")
    open("/dev/shm/left", "w").write("x")
    libc.shmget(77, 4096, 0o1666)
    libc.semget(78, 1, 0o1666)
    libc.msgget(79, 0o1666)
    one = socket.socket(socket.AF_UNIX)
    one.bind("\\0left")
    kept.append(one)
    kept.append(open("/app/mod.py"))
    sys.path.insert(0, "/tmp")
    json_module.patched = True
    cache.append(1)
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.pause()
        os._exit(0)
    import subprocess
    subprocess.Popen(["sleep", "60"])
"""


def answer(record: dict[str, Any]) -> Any:
    assert record["status"] == "success", record
    return json.loads(record["stdout"])


@promise("R9")
def test_nothing_of_a_call_is_left_for_the_next(shared: Server) -> None:
    function = python(shared, LOOK, max_instances=1)
    fresh = answer(function.invoke())
    assert fresh["descriptors"][:3] == ["0", "1", "2"]
    for _ in range(3):
        assert function.invoke("spoil")["stdout"] == "spoilt"
        record = function.invoke()
        assert record["cold_start"] is False
        assert answer(record) == fresh


def test_negative_control_what_is_in_the_interpreter_survives(shared: Server) -> None:
    function = python(shared, LOOK, cleanup_on_exit=False)
    fresh = answer(function.invoke())
    function.invoke("spoil")
    spoilt = answer(function.invoke())
    survived = {name for name in fresh if fresh[name] != spoilt[name]}
    assert survived >= {"environment", "cwd", "umask", "files", "ipc", "patched", "cache"}
    # Processes never survive.
    assert spoilt["processes"] == fresh["processes"]
    assert not shared.named("sleep")


SECRET = """
import glob, os, re
# What this source holds is no match: a bracket follows where the secret has a digit.
planted = re.compile(rb"s3cr3t-of-call-[0-9]").search
def handler(event):
    if event == "plant":
        hidden = [os.environ["TOKEN"] * 3]
        open("/tmp/t", "w").write(os.environ["TOKEN"])
        return "planted"
    found = []
    for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/tmp/*") + glob.glob("/dev/shm/*"):
        try:
            found += [path] * bool(planted(open(path, "rb").read()))
        except OSError:
            pass
    for line in open("/proc/self/maps"):
        area, mode = line.split()[:2]
        if "r" not in mode or "[v" in line:
            continue
        start, end = (int(one, 16) for one in area.split("-"))
        with open("/proc/self/mem", "rb", 0) as memory:
            try:
                memory.seek(start)
                if planted(memory.read(end - start)):
                    found.append(line.strip())
            except (OSError, ValueError, OverflowError):
                pass
    return found
"""


@promise("R9")
def test_a_calls_secret_is_nowhere_in_the_next_call(shared: Server) -> None:
    function = python(shared, SECRET)
    for number in range(20):
        function.invoke("plant", environment={"TOKEN": f"s3cr3t-of-call-{number}"})
        assert answer(function.invoke("look")) == []


def test_negative_control_the_same_search_finds_it_in_a_process_that_stays(shared: Server) -> None:
    source = SECRET.replace("hidden = [", "globals()['hidden'] = [")
    function = python(shared, source, cleanup_on_exit=False)
    function.invoke("plant", environment={"TOKEN": "s3cr3t-of-call-1"})
    assert answer(function.invoke("look")) != []


LATE = """
import os, sys, threading, time
def handler(event):
    if os.fork() == 0:
        os.setsid()
        for _ in range(2000):
            time.sleep(0.001)
            try:
                os.write(2, b"late " + event.encode() + b"\\n")
                os.write(1, b"late " + event.encode() + b"\\n")
            except OSError:
                pass
        os._exit(0)
    return event
"""


@promise("R11")
@pytest.mark.parametrize("cleanup", [True, False])
def test_what_a_call_left_running_writes_into_no_other_call(shared: Server, cleanup: bool) -> None:
    source = LATE
    if not cleanup:  # the child belongs to the runner, which has to end it
        source = LATE.replace("os.setsid()", "pass")
    function = python(shared, source, cleanup_on_exit=cleanup)
    for number in range(100):
        record = function.invoke(f"n{number}")
        assert record["stdout"] == f"n{number}"
        assert not [one for one in record["stderr"].split() if one not in ("late", f"n{number}")]
    until(lambda: function.pool()["ready_count"] == 1)


def test_two_instances_share_no_numbers(shared: Server) -> None:
    source = """
    import os, random, socket, time, uuid
    def handler():
        time.sleep(0.2)
        return [random.random(), uuid.uuid4().hex, os.urandom(8).hex(), socket.gethostname()]
    """
    function = python(shared, source, min_instances=4, max_instances=4)
    drawn: list[list[Any]] = []
    for _ in range(5):
        calls = [shared.later(function.invoke) for _ in range(4)]
        drawn += [answer(call.result()) for call in calls]
    for values in list(zip(*drawn, strict=True))[:3]:
        assert len(set(values)) == 20
    assert len({one[3] for one in drawn}) == 4


ENDS = {
    python: (
        "import socket\ndef handler(event):\n    if event == 'who': return socket.gethostname()"
        "\n    if event == 'die': import os; os.kill({victim}, 9)\n    while True: pass\n"
    ),
    node: (
        "exports.handler = (event) => {{ if (event === 'who') return require('os').hostname();"
        " if (event === 'die') process.kill({victim}, 'SIGKILL'); while (true); }}"
    ),
}


@pytest.mark.parametrize("runtime", [python, node], ids=["python", "node"])
@pytest.mark.parametrize("end", ["timeout", "die"])
def test_an_instance_that_ended_badly_is_replaced(shared: Server, runtime: Any, end: str) -> None:
    victim = {python: "os.getppid()", node: "process.pid"}[runtime]
    function = runtime(
        shared,
        ENDS[runtime].format(victim=victim),
        cleanup_on_exit=runtime is python,
    )
    before = function.invoke("who")
    assert before["status"] == "success", before
    bad = function.invoke(end, timeout_seconds=1 if end == "timeout" else 20)
    assert bad["status"] == ("timeout" if end == "timeout" else "failed")
    after = function.invoke("who")
    assert after["status"] == "success"
    assert after["stdout"] != before["stdout"]
