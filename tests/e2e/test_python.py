"""Python handlers: their input, the effects of their code, and the different kinds of their end."""

import json
import re
import time
from collections.abc import Iterable
from typing import Any

import pytest

from e2e import sample_runtimes
from e2e.sample_runtimes import python
from e2e.server import Server, until
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox
MIB = 1024 * 1024
KEEP = pytest.mark.parametrize("cleanup", [True, False], ids=["forks", "keeps"])


def answer(record: dict[str, Any]) -> Any:
    assert record["status"] == "success", record
    return json.loads(record["stdout"])


def numbered(bodies: Iterable[str], head: str = "") -> str:
    """A module whose handler runs the body that its event selects by number; other events give
    "fine". `head`: the first lines of the module.
    """
    cases = "".join(f"def case{number}():\n    {body}\n" for number, body in enumerate(bodies))
    last = "def handler(event): return globals().get(f'case{event}', lambda: 'fine')()\n"
    return f"{head}\n{cases}{last}"


@promise("R23")
@KEEP
def test_event_and_context(shared: Server, cleanup: bool) -> None:
    source = """
    import os
    def handler(event, context):
        context.seen_by = "middleware"
        # Then what Lambda's context has, too.
        return [event, context.invocation_id, context.function_name, context.function_version,
                0 < context.remaining_ms() <= 30_000, context.traceparent,
                os.environ["QUILT_INVOCATION_ID"], os.environ["MINE"], os.environ.get("CALLS"),
                os.getcwd(),
                context.memory_limit_in_mb, context.invoked_function_arn, context.log_group_name,
                context.log_stream_name, context.client_context,
                context.identity.cognito_identity_id, context.identity.cognito_identity_pool_id,
                context.aws_request_id, 0 < context.get_remaining_time_in_millis() <= 30_000,
                context.seen_by]
    """
    function = python(
        shared, source, environment={"MINE": "v"}, cleanup_on_exit=cleanup, memory_limit_mb=300
    )
    record = function.invoke('{"a": [1, null]}', environment={"CALLS": "c"})
    event, number, name, version, *rest = answer(record)
    assert event == {"a": [1, None]}
    assert (number, name, version) == (record["invocation_id"], record["function_name"], "1")
    assert rest[:6] == [True, None, number, "v", "c", "/app"]
    arn = f"arn:quiltfn:lambda:local:000000000000:function:{name}:1"
    assert rest[6:10] == [300, arn, f"/quiltfn/{name}", f"1/{number}"]
    assert rest[10:] == [None, None, None, number, True, "middleware"]
    assert answer(function.invoke("plain text"))[0] == "plain text"
    assert answer(function.invoke())[0] is None
    # An invocation must not see the input of the one before.
    assert answer(function.invoke())[8] is None


LOGS = {
    "logging.getLogger().info('a'); logging.getLogger('x').info('b')": "INFO:root:a INFO:x:b",
    "logging.info('a'); logging.debug('b')": "INFO:root:a",
    "logging.getLogger('x').debug('a'); logging.getLogger('x').warning('b')": "WARNING:x:b",
    "logging.getLogger('x').setLevel(10); logging.getLogger('x').debug('a')": "DEBUG:x:a",
    "logging.basicConfig(format='%(message)s!'); logging.info('a')": "a!",
    "logging.basicConfig(level='ERROR'); logging.warning('a'); logging.error('b')": "ERROR:root:b",
    "logging.getLogger().setLevel('ERROR'); logging.warning('a')": "",
}


@promise("R23")
@pytest.mark.parametrize("when", ["at first", "in a call"])
def test_logs_are_seen_from_info_on(shared: Server, when: str) -> None:
    """Logs from level INFO on are shown, whether the handler's module imports `logging`, or only an
    invocation does.
    """
    if when == "at first":
        function = python(shared, numbered(LOGS, "import logging"))
    else:
        function = python(shared, numbered(f"import logging; {one}" for one in LOGS))
    for number, (logs, lines) in enumerate(LOGS.items()):
        assert function.invoke(str(number))["stderr"].split() == lines.split(), logs


RETURNED = {
    "return 'text as it is é'": "text as it is é",
    "return b'bytes \\xff'": "bytes �",
    "return None": "null",
    "return {'é': [1, 2.5, True]}": '{"é": [1, 2.5, true]}',
    "return [1, 'a']": '[1, "a"]',
    "yield 'a'; yield b'b'; yield {'c': 1}": 'ab{"c": 1}\n',
    "return (x for x in ('p', 'q'))": "pq",
}


@KEEP
def test_returned_is_the_output(shared: Server, cleanup: bool) -> None:
    function = python(shared, numbered(RETURNED), cleanup_on_exit=cleanup)
    for number, (body, stdout) in enumerate(RETURNED.items()):
        record = function.invoke(str(number))
        expected = ("success", stdout, "")
        assert (record["status"], record["stdout"], record["stderr"]) == expected, body


@KEEP
def test_asynchronous_handlers(shared: Server, cleanup: bool) -> None:
    source = """
    import asyncio
    async def handler(event, context):
        if event == "generate":
            return stream()
        await asyncio.sleep(0.01)
        return {"slept": True}
    async def stream():
        for part in ("a", {"b": 1}):
            await asyncio.sleep(0)
            yield part
    """
    function = python(shared, source, cleanup_on_exit=cleanup)
    assert answer(function.invoke()) == {"slept": True}
    assert function.invoke("generate")["stdout"] == 'a{"b": 1}\n'
    assert answer(function.invoke()) == {"slept": True}


NAMES = [
    *("mod:handler", "mod.handler", "mod:Class.method", "mod:instance", "pack.sub:handler"),
    *("pack/sub.handler", "no-package/my-mod.handler", "no-package/1st.handler"),
    # these handlers differ in the number of their arguments
    *("mod:none", "mod:two", "mod:any", "mod:more"),
    "mod:generator",
]


@promise("R23")
def test_ways_to_name_a_handler_and_its_arguments(shared: Server) -> None:
    source = """
    def handler(event): return "ok"
    def none(): return "ok"
    def two(event, context): return "ok"
    def any(*a): return "ok"
    def more(event, c=None): return "ok"
    async def generator(event):
        yield "o"
        yield "k"
    class Class:
        @staticmethod
        def method(event, context): return "ok"
        def __call__(self, event): return "ok"
    instance = Class()
    """
    files = {"mod.py": source, "pack/__init__.py": "", "pack/sub.py": source}
    files |= {"no-package/my-mod.py": source, "no-package/1st.py": source}
    runtime = sample_runtimes.add(shared, "python", files)  # type: ignore[arg-type]
    for name in NAMES:
        assert shared.run(name, runtime=runtime)["stdout"] == "ok", name


@KEEP
def test_prints_and_logging_are_errors_output_in_order(shared: Server, cleanup: bool) -> None:
    source = """
    import logging, os, sys
    print("at import")
    def handler(event):
        print("one")
        sys.stderr.write("two\\n")
        logging.warning("three")
        os.write(1, b"four\\n")
        os.system("echo five; echo six >&2")
        print("seven", file=sys.stdout, end="")
        return "answer"
    """
    function = python(shared, source, cleanup_on_exit=cleanup)
    record = function.invoke()
    assert record["stdout"] == "answer"
    lines = "one\ntwo\nWARNING:root:three\nfour\nfive\nsix\nseven"
    assert (
        record["stderr"].replace("WARNING:root:", "").replace("three", "WARNING:root:three")
        == "at import\n" + lines
    )
    again = function.invoke()["stderr"]
    assert "at import" not in again


@KEEP
def test_a_traceback_is_of_the_handler_alone(shared: Server, cleanup: bool) -> None:
    source = """
    def inner():
        raise ValueError("bad luck")
    def handler(event):
        try:
            inner()
        except ValueError as error:
            raise KeyError("worse") from error
    """
    record = python(shared, source, cleanup_on_exit=cleanup).invoke()
    assert (record["status"], record["exit_code"], record["stdout"]) == ("failed", 1, "")
    trace = record["stderr"]
    assert trace.startswith("Traceback (most recent call last):\n")
    assert trace.endswith("KeyError: 'worse'\n")
    assert "ValueError: bad luck" in trace
    assert '"/app/mod.py", line 3, in inner' in trace
    assert ".runners" not in trace


LOGGED = """import logging, sys
    try: {}['cached']
    except KeyError: logging.exception('going on')
"""
LOCAL = "class Bad(Exception): pass\n    raise Bad('one\\ntwo')"
GROUP = """import asyncio
    async def fail(): return {}['zz-2']
    async def run():
        async with asyncio.TaskGroup() as group: group.create_task(fail())
    asyncio.run(run())"""


@promise("A84")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{LOGGED}    print('no disk'); sys.exit(3)", "the handler exited with code 3"),
        (f"{LOGGED}    sys.exit('no disk')", "the handler exited with code 1: no disk"),
        (LOCAL, "mod.handler.<locals>.Bad: one (mod.py, line 3)"),
        (GROUP, "KeyError: 'zz-2' (mod.py, line 3)"),
    ],
)
@KEEP
def test_the_reason_is_what_ended(shared: Server, body: str, reason: str, cleanup: bool) -> None:
    source = f"def handler(event):\n    {body}\n"
    record = python(shared, source, cleanup_on_exit=cleanup).invoke()
    assert record["error_message"] == reason, record["stderr"]


ENDS: dict[str, tuple[str, int | None]] = {
    "import sys; sys.exit(3)": ("failed", 3),
    "import sys; sys.exit()": ("success", 0),
    "import sys; sys.exit('told')": ("failed", 1),
    "import os; os._exit(4)": ("failed", 4),
    "import os; os.abort()": ("failed", 134),
    "import ctypes; ctypes.string_at(1)": ("failed", 139),
    "return object()": ("failed", 1),
    "return {1: {2}}": ("failed", 1),
    "raise KeyboardInterrupt": ("failed", 1),
    "while True: pass": ("timeout", None),
    "import time; time.sleep(60)": ("timeout", None),
    "x = [bytearray(1 << 20) for _ in range(400)]": ("oom", 137),
}


@KEEP
def test_ends_are_told_apart_and_the_next_call_succeeds(shared: Server, cleanup: bool) -> None:
    function = python(shared, numbered(ENDS), cleanup_on_exit=cleanup)
    for number, (body, end) in enumerate(ENDS.items()):
        began = time.monotonic()
        record = function.invoke(str(number), timeout_seconds=2 if end[0] == "timeout" else 20)
        assert (record["status"], record["exit_code"]) == end, (body, record)
        assert time.monotonic() - began < scaled(3.5)
        assert function.invoke("next")["stdout"] == "fine", body


UNFIT = {
    "import nosuchmodule": "importing mod failed: ModuleNotFoundError: No module named",
    "1 / 0": "importing mod failed: ZeroDivisionError",
    "def other(): pass": "module mod has no 'handler'",
    "handler = 3": "mod:handler is a int, not a function",
    "def handler(:": "importing mod failed: SyntaxError",
    "import sys; sys.exit(1)": "importing mod ended the process",
    "import os; os._exit(5)": "ended with status 5 before it was ready",
    "import os; os.abort()": "was killed by signal 6 before it was ready",
}


@promise("R12")
def test_what_cannot_run_shows_at_deploy(shared: Server) -> None:
    files: dict[str, str | bytes] = {f"mod{n}.py": source for n, source in enumerate(UNFIT)}
    runtime = sample_runtimes.add(shared, "python", files)
    for number, message in enumerate(UNFIT.values()):
        state = shared.create(f"mod{number}:handler", runtime=runtime).deploy()
        assert state["state"] == "error"
        assert re.sub(r"\bmod\b", f"mod{number}", message) in state["error_message"]


def test_a_module_that_is_not_there_is_named(shared: Server) -> None:
    runtime = sample_runtimes.add(shared, "python", {"other.py": ""})
    state = shared.create("mod:handler", runtime=runtime).deploy()
    sentence, heading, *lines = state["error_message"].splitlines()
    assert sentence.endswith("there is no module 'mod' in /app")
    assert heading == "It wrote last:"
    assert lines[-1] == "ModuleNotFoundError: No module named 'mod'"


def test_the_handler_sees_its_packages_before_the_hosts(shared: Server) -> None:
    files = {
        "mod.py": "import json, six\ndef handler(): return [six.WHO, json.__name__]\n",
        "site-packages/six.py": "WHO = 'ours'\n",
    }
    runtime = sample_runtimes.add(shared, "python", files)  # type: ignore[arg-type]
    assert answer(shared.deploy("mod:handler", runtime=runtime).invoke()) == ["ours", "json"]


@promise("R4")
def test_files_of_the_image_can_be_read_and_not_changed(shared: Server) -> None:
    source = """
    import os
    def handler():
        told = [open("data/x.txt").read()]
        for path in ("data/x.txt", "new", "/app/data/y"):
            try:
                open(path, "w")
                told.append(path)
            except OSError as error:
                told.append(error.errno)
        return told
    """
    runtime = sample_runtimes.add(shared, "python", {"mod.py": source, "data/x.txt": "content"})
    assert answer(shared.deploy("mod:handler", runtime=runtime).invoke()) == ["content", 30, 30, 30]


def test_a_runtime_may_have_places_to_write_that_are_emptied(shared: Server) -> None:
    source = """
    import os
    def handler(event):
        found = os.listdir("/data") + os.listdir("/var/cache/tool")
        open("/data/x", "w").write("x")
        open("/var/cache/tool/y", "w").write("x")
        return found
    """
    for cleanup, expected in ((True, []), (False, ["x", "y"])):
        runtime = sample_runtimes.add(
            shared, "python", {"mod.py": source}, writable_paths=["/data", "/var/cache/tool"]
        )
        function = shared.deploy("mod:handler", runtime=runtime, cleanup_on_exit=cleanup)
        assert answer(function.invoke()) == []
        assert answer(function.invoke()) == expected


def test_large_payloads_and_answers(shared: Server) -> None:
    source = """
    def handler(event):
        if isinstance(event, int): return "z" * event
        return event if event[0] == "x" else str(len(event))
    """
    function = python(shared, source)
    payload = "x" * (MIB - 1)
    assert function.invoke(payload)["stdout"] == payload
    assert function.invoke("y" * (6 * MIB))["stdout"] == str(6 * MIB)
    largest = function.invoke(str(6 * MIB))
    assert (largest["status"], len(largest["stdout"])) == ("success", 6 * MIB)


TOO_LARGE = [
    "return 'z' * 7_000_000",
    "return ['z' * 1000] * 7000",
    "return b'\\xff' * 7_000_000",
    "yield from ['z' * 70_000] * 100",
]


@promise("C13")
@KEEP
def test_a_value_that_is_too_large_fails(shared: Server, cleanup: bool) -> None:
    function = python(shared, numbered(TOO_LARGE), cleanup_on_exit=cleanup)
    why = rf"the handler returned 7\d+ bytes; at most {6 * MIB} are kept of a result"
    for number, value in enumerate(TOO_LARGE):
        ended = function.invoke(str(number))
        assert (ended["status"], ended["exit_code"], ended["stdout"]) == ("failed", 1, ""), value
        assert re.fullmatch(why, ended["error_message"])
    assert function.invoke("next")["stdout"] == "fine"


def test_libraries_are_told_to_start_no_threads_unless_the_function_says_so(server: Server) -> None:
    source = """
    import os
    SEEN = os.environ["OMP_NUM_THREADS"], os.environ["JE_ARROW_MALLOC_CONF"]
    def handler(event): return SEEN
    """
    own = {"OMP_NUM_THREADS": "2"}
    for environment, wanted in (({}, "1"), (own, "2")):
        record = python(server, source, environment=environment).invoke()
        assert answer(record) == [wanted, "background_thread:false"]


@promise("R26")
def test_threads_at_import_are_noticed_and_told(server: Server) -> None:
    source = """
    import os, threading, time
    threading.Thread(target=time.sleep, args=(60,), daemon=True, name="ticker").start()
    state = []
    def handler():
        state.append(1)
        return [os.uname().nodename, os.getpid(), len(state)]
    """
    function = python(server, source)
    calls = [answer(function.invoke()) for _ in range(3)]
    assert [count for _, _, count in calls] == [1, 1, 1]
    assert len({(instance, pid) for instance, pid, _ in calls}) == 3
    until(lambda: "ticker" in server.log.read_text())
    # The owner of the function sees the warning, too: in the response to the deploy, and in the
    # function while this version is current.
    for state in (function.deploy(), server.call("GET", function.path).json()):
        assert state["note"].startswith(
            "the module starts threads when it is imported (ticker), so"
        )
    files: dict[str, str | bytes] = {"mod.py": "def handler(): return 'forked'"}
    runtime = sample_runtimes.add(server, "python", files)
    quiet = server.call("PUT", function.path, {"runtime": runtime}).json()
    assert quiet["current_version"] == 2
    assert "note" not in quiet
