"""Runs Python handlers: imports a module once, then calls its function for every invocation.

The guest starts this inside a sandbox; docs/reference/runner-protocol.md describes their protocol.
It supports Python 3.9 and newer, and imports nothing that a small handler does not need: every
module costs start-up time, and memory in every idle instance.

With QUILT_KEEP=1 one process serves all invocations. Otherwise each invocation runs in a fork of
the process that has imported the module, so its changes to modules, environment, open files or
memory end with the fork. If the module prevents forks, each invocation runs in a process that was
started for it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from select import POLLIN, poll

del sys.modules["select"]  # a function may have a module of this name
# Modules are searched in the handler's directory, not in the directory of this file.
if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import asyncio
    from collections.abc import AsyncIterable, Awaitable, Callable
    from types import CodeType, TracebackType
    from typing import Any, NoReturn

CONTROL, HEAD_BYTES, READ_BYTES = 3, 64, 1 << 16
# A result of up to this many bytes is sent together with the line that ends the invocation.
SMALL_BYTES = 60_000
HOME = "/app"
PACKAGES = "/app/site-packages"
PR_SET_DUMPABLE, MSG_CMSG_CLOEXEC = 4, 0x40000000
SOL_SOCKET, SCM_RIGHTS, MSG_PEEK, MSG_DONTWAIT, MSG_NOSIGNAL = 1, 1, 2, 0x40, 0x4000
STREAMS, INT_BYTES = 3, 4
# A fork that waits for an invocation takes memory, so it ends after this time.
FORK_RESTS_MS = 2000
# What a fork tells the process that it was forked from: that it has its invocation's head, and all.
HEARD, READ = b"h", b"r"
# As they are before a handler's module can change them.
LOADS, DUMPS = json.JSONDecoder().decode, json.JSONEncoder(ensure_ascii=False).encode
CO_VARARGS = 0x04
# The name of a function in the format of AWS Lambda; only the last two parts have a meaning here.
ARN = "arn:quiltfn:lambda:local:000000000000:function"
# The descriptor that results are written to. `main` separates it from printed output.
RESULT = 1


class Refused(Exception):
    """The handler cannot run; the message is a sentence."""


class Identity:
    """The caller's Amazon Cognito identity in the context of AWS Lambda; always empty here."""

    cognito_identity_id = None
    cognito_identity_pool_id = None


class Context:
    """The facts about an invocation that a handler gets in addition to the event.

    It has all attributes of AWS Lambda's context, so that code and libraries written for Lambda
    work.
    """

    client_context = None
    identity = Identity()

    def __init__(self, variables: dict[str, str]) -> None:
        get = variables.get
        self.invocation_id = get("QUILT_INVOCATION_ID", "")
        self.function_id = get("QUILT_FUNCTION_ID", "")
        self.function_name = get("QUILT_FUNCTION_NAME", "")
        self.function_version = get("QUILT_FUNCTION_VERSION", "")
        self.memory_limit_in_mb = int(get("QUILT_MEMORY_LIMIT_MB", "0"))
        self.traceparent = get("TRACEPARENT")
        self._deadline_ms = int(get("QUILT_DEADLINE_MS", "0"))

    def remaining_ms(self) -> int:
        """Milliseconds until the invocation times out, never below 0."""
        import time

        return max(0, int(self._deadline_ms - time.time() * 1000))

    def get_remaining_time_in_millis(self) -> int:
        """Like `remaining_ms`, under its name in AWS Lambda."""
        return self.remaining_ms()

    @property
    def aws_request_id(self) -> str:
        return self.invocation_id

    @property
    def invoked_function_arn(self) -> str:
        return f"{ARN}:{self.function_name}:{self.function_version}"

    @property
    def log_group_name(self) -> str:
        return f"/quiltfn/{self.function_name}"

    @property
    def log_stream_name(self) -> str:
        return f"{self.function_version}/{self.invocation_id}"


class ShownLogs:
    """Shows log messages from level INFO on without any configuration; by default, `logging` shows
    only warnings and errors.

    It waits in `sys.meta_path` for the first import of `logging`: functions without logs save the
    time and memory of this import.
    """

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name != "logging":
            return None
        from _frozen_importlib_external import PathFinder

        sys.meta_path.remove(ShownLogs)
        spec: Any = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                del spec.loader.exec_module
                execute(module)
                # Python's module, not one of the function with the same name.
                if hasattr(module, "lastResort"):
                    show_logs(module)

            spec.loader.exec_module = exec_module
        return spec


def show_logs(logging: Any) -> None:
    """Shows messages from level INFO on, in the format of `logging.basicConfig`. The root logger
    gets no handler, since `basicConfig` would then do nothing.
    """
    logging.getLogger().setLevel(logging.INFO)
    logging.lastResort.setLevel(logging.NOTSET)
    logging.lastResort.setFormatter(logging.Formatter(logging.BASIC_FORMAT))


# Talking to the guest ------------------------------------------------------------------------


class Call:
    """An invocation whose head has been read; `rest`: the bytes read after the head."""

    def __init__(self, head: bytes, rest: bytes = b"") -> None:
        self.head = head
        # Not an invocation yet: the process of the next one may be forked.
        self.is_ahead = head.startswith(b"ahead")
        if self.is_ahead:
            return
        _, number, _timeout_ms, which, variables_bytes, payload_bytes = head.split()
        self.number = number.decode()
        # Whether the variables of the invocation replace those of the version.
        self.replaces = which == b"all"
        self._variables_bytes, self._payload_bytes = int(variables_bytes), int(payload_bytes)
        self._rest = rest

    def read(self) -> tuple[dict[str, str], bytes | None]:
        """Reads the remaining parts of the invocation: variables and payload."""
        end, size = self._variables_bytes, self._variables_bytes + max(0, self._payload_bytes)
        data = self._rest + exactly(size - len(self._rest))
        text = data[:end].decode("utf-8", "surrogateescape")
        variables = dict([one.split("=", 1) for one in text.split("\0")[:-1]])
        return variables, data[end:] if self._payload_bytes >= 0 else None


def hear(control: _socket.socket) -> tuple[Call, list[int]]:
    """Waits for the next invocation and reads only its head. The descriptors that come with it are
    the standard streams of the invocation.
    """
    room = STREAMS * INT_BYTES
    head, messages, _, _ = control.recvmsg(HEAD_BYTES, room + 64, MSG_CMSG_CLOEXEC)
    if not head:
        os._exit(0)
    data = b"".join(part for _, _, part in messages)
    each = range(0, len(data), INT_BYTES)
    streams = [int.from_bytes(data[at : at + INT_BYTES], sys.byteorder) for at in each]
    return Call(head + exactly(HEAD_BYTES - len(head))), streams


def arrived(channel: _socket.socket, size: int, flags: int = 0) -> bytes:
    """Returns what has arrived, at most `size` bytes; empty: nothing, or the connection ended."""
    try:
        return channel.recv(size, flags | MSG_DONTWAIT)
    except OSError:
        return b""


def hear_all() -> Call:
    """Waits for the next invocation and reads as much of it as has arrived."""
    data = os.read(CONTROL, READ_BYTES)
    if len(data) < HEAD_BYTES:
        if not data:
            os._exit(0)
        data += exactly(HEAD_BYTES - len(data))
    return Call(data[:HEAD_BYTES], data[HEAD_BYTES:])


def exactly(size: int) -> bytes:
    """Reads exactly `size` bytes from the control socket. Exits if the guest has closed it."""
    data = os.read(CONTROL, size) if size else b""
    if len(data) == size:
        return data
    parts = [data]
    while size > sum(map(len, parts)):
        if not parts[-1]:
            os._exit(0)
        parts.append(os.read(CONTROL, size - sum(map(len, parts))))
    return b"".join(parts)


def say(line: str, result: bytes = b"") -> None:
    """Sends a line; after a `done` line with a length, also the result of this length."""
    rest = line.encode("utf-8", "replace") + b"\n" + result
    while rest:
        rest = rest[os.write(CONTROL, rest) :]


def ready(mode: str) -> None:
    """Reports that this process is ready for invocations, and that it writes their results to
    `RESULT`.
    """
    say(f"result stdout\nready {mode}")


# The handler ---------------------------------------------------------------------------------


def load(name: str) -> Callable[..., Any]:
    """Imports the function called `name`. Raises `Refused`."""
    module_name, mark, path = name.partition(":")
    if not mark:
        module_name, _, path = name.rpartition(".")
    module_name = module_name.replace("/", ".")
    try:
        module = __import__(module_name, fromlist=["_"])
    except BaseException as error:
        show(error)
        if isinstance(error, SystemExit):
            raise Refused(f"importing {module_name} ended the process (sys.exit)") from None
        missing = isinstance(error, ModuleNotFoundError) and error.name == module_name
        if missing:
            where = HOME if os.path.isdir(HOME) and os.listdir(HOME) else "the host image"
            raise Refused(f"there is no module {module_name!r} in {where}") from None
        text = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise Refused(f"importing {module_name} failed: {text}") from None
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Refused(f"module {module_name} has no {path!r}") from None
    if not callable(found):
        raise Refused(f"{name} is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


def arguments_of(function: Callable[..., Any]) -> int:
    """Returns how many of the arguments (event, context) the function takes."""
    code: CodeType | None = getattr(function, "__code__", None)
    if code is not None and not hasattr(function, "__wrapped__"):
        if code.co_flags & CO_VARARGS:
            return 2
        bound = 1 if getattr(function, "__self__", None) is not None else 0
        return max(0, min(2, code.co_argcount - bound))
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters):
        return 2
    return min(2, sum(one.kind in kinds for one in parameters))


def event_of(payload: bytes | None) -> Any:
    """Decodes the payload from JSON, or as text if it is not JSON; None if there is no payload."""
    if payload is None:
        return None
    try:
        return json.loads(payload.decode())
    except ValueError:
        return payload.decode("utf-8", "replace")


class Runner:
    """Calls one handler."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._count = arguments_of(function)
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, payload: bytes | None, variables: dict[str, str]) -> tuple[int, bytes]:
        """Calls the handler, and writes the parts of its result. Returns the exit status and the
        rest of the result, which is not written yet.
        """
        try:
            given = (event_of(payload), Context(variables))[: self._count]
            result = self._function(*given)
            if hasattr(result, "__await__"):
                result = self._wait(result)
            if hasattr(result, "__aiter__"):
                self._wait(_write_all(result))
                return 0, b""
            if not hasattr(result, "__next__"):
                return 0, encode(result)
            for part in result:
                write(encode_part(part))
        except SystemExit as error:
            return exit_status(error), b""
        except BaseException as error:
            show(error)
            return 1, b""
        return 0, b""

    def _wait(self, awaitable: Awaitable[Any]) -> Any:
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(_awaited(awaitable))


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _write_all(parts: AsyncIterable[Any]) -> None:
    async for part in parts:
        write(encode_part(part))


def encode(result: object) -> bytes:
    """Encodes a result: text and bytes as they are, all other types as JSON."""
    if isinstance(result, str):
        return result.encode("utf-8", "replace")
    if isinstance(result, (bytes, bytearray, memoryview)):  # Python 3.9 has no `|` here
        return bytes(result)
    return json.dumps(result, ensure_ascii=False).encode("utf-8", "replace")


def encode_part(part: object) -> bytes:
    """Encodes one item of a generator; a JSON value becomes a separate line."""
    text = isinstance(part, (str, bytes, bytearray, memoryview))
    return encode(part) if text else encode(part) + b"\n"


def write(data: bytes) -> None:
    while data:
        data = data[os.write(RESULT, data) :]


def exit_status(error: SystemExit) -> int:
    """Returns the exit status that Python itself would use. Logs a status other than 0, which shows
    that the handler exited by itself: a traceback above it is from an exception that it handled.
    """
    if error.code is None:
        return 0
    status = error.code & 0xFF if isinstance(error.code, int) else 1
    if status != 0:
        print(f"SystemExit: {error.code}", file=sys.stderr)
    return status


def show(error: BaseException) -> None:
    """Prints the traceback without the runner's own frames."""
    trace = error.__traceback__
    while trace is not None and (
        trace.tb_frame.f_code.co_filename == __file__ or _of_importlib(trace)
    ):
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    sys.stderr.flush()


def _of_importlib(trace: TracebackType) -> bool:
    return trace.tb_frame.f_code.co_filename.startswith("<frozen importlib")


# Serving -------------------------------------------------------------------------------------


def serve_all(runner: Runner) -> None:
    """Serves all invocations in this process. The process keeps its state; child processes are
    killed after each invocation.
    """
    own = dict(os.environ)
    before: set[str] = set()
    while True:
        call = hear_all()
        variables, payload = call.read()
        # Invocations usually have variables with the same names, so only the others are removed.
        for name in before.difference(variables):
            if name in own:
                os.environ[name] = own[name]
            else:
                os.environ.pop(name, None)
        before = set(variables) | (set(own) if call.replaces else set())
        code, result = serve_here(runner, call, variables, payload)
        end_children()
        done(call, code, result)


class Forks:
    """Serves each invocation in a separate fork. While the function is in use, the fork is made
    before its invocation arrives.

    The process of this object never runs code of the function after the import, and has no data of
    an invocation in its memory, which later forks would inherit. An invocation's process cannot
    read or change this memory (see `harden`). But it can set limits and priority of this process,
    so the guest compares these after each invocation.
    """

    def __init__(self, runner: Runner) -> None:
        import _signal  # type: ignore[import-not-found]  # the C part of `signal` is enough
        import _socket

        self._runner, self._control = runner, _socket.socket(fileno=CONTROL)
        self._child = 0  # the fork that waits for its invocation; 0: there is none
        self._channel = self._control  # to that fork
        # An invocation can send this process any signal. Signals that the kernel also sends are
        # discarded. All others are blocked: the guest sees them pending, and ends the sandbox.
        discarded = {_signal.SIGIO, _signal.SIGURG, _signal.SIGCHLD, _signal.SIGCONT}
        self._actions = {}
        for number in discarded:
            action = _signal.getsignal(number)
            discard = _signal.SIG_IGN if number == _signal.SIGIO else _signal.SIG_DFL
            if action is not None and action != discard:
                self._actions[number] = _signal.signal(number, discard)
        rest = _signal.valid_signals() - discarded
        self._blocked = _signal.pthread_sigmask(_signal.SIG_BLOCK, rest)

    def serve(self) -> NoReturn:
        """Serves all invocations."""
        calls = poll()
        calls.register(CONTROL, POLLIN)
        while True:
            if self._child and not calls.poll(FORK_RESTS_MS):
                os.kill(self._child, 9)  # hooks of the function may keep it from ending
                self._end()
            call, streams = hear(self._control)
            if not call.is_ahead:
                self._serve_one(call, streams)
            elif self._child == 0:
                try:
                    self._fork()
                except OSError:
                    continue  # the invocation tries again, and reports why it fails

    def _fork(self) -> None:
        import _socket

        reap()
        self._channel, channel = _socket.socketpair()
        self._child = os.fork()
        if self._child == 0:
            self._channel.close()
            self._become(channel)
        channel.close()

    def _end(self) -> tuple[int, bytes]:
        """Waits for the end of the fork. Returns its status, and `HEARD` and `READ` as far as it
        has sent them.
        """
        status = os.waitpid(self._child, 0)[1]
        self._child = 0
        answer = arrived(self._channel, len(HEARD + READ))
        self._channel.close()
        return status, answer

    def _serve_one(self, call: Call, streams: list[int]) -> None:
        status, answer = 0, b""
        if self._child:
            self._pass_on(call, streams)
            status, answer = self._end()
        if not answer:  # it ended before it knew of the invocation, or there was none
            self._fork()
            self._pass_on(call, streams)
            status, answer = self._end()
        if os.WIFSIGNALED(status):
            say(f"done {call.number} killed {os.WTERMSIG(status)}")
        else:
            say(f"done {call.number} exited {os.WEXITSTATUS(status)}")
        # Closed last, since the guest wakes up when they are closed.
        for descriptor in streams:
            os.close(descriptor)
        if answer != HEARD + READ and arrived(self._control, 1, MSG_PEEK):
            # The rest would be taken for the next invocation. The guest ends the sandbox for it.
            poll().poll()

    def _pass_on(self, call: Call, streams: list[int]) -> None:
        """Passes the invocation to the fork, if that is still alive."""
        data = b"".join([one.to_bytes(INT_BYTES, sys.byteorder) for one in streams])
        try:
            self._channel.sendmsg([call.head], [(SOL_SOCKET, SCM_RIGHTS, data)], MSG_NOSIGNAL)
        except OSError:
            return

    def _become(self, channel: _socket.socket) -> NoReturn:
        """In a fork: serves the invocation that comes by `channel`, and exits."""
        import _signal

        code = 1
        try:
            os.setsid()
            harden(False)
            for number, action in self._actions.items():
                _signal.signal(number, action)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self._blocked)
            reseed()
            touch()
            call, streams = hear(channel)
            channel.send(HEARD)
            take(streams)
            variables, payload = call.read()
            channel.send(READ)
            channel.close()
            os.close(CONTROL)
            status, result = serve_here(self._runner, call, variables, payload)
            write(result)
            code = status
        except OSError as error:  # the handler may have closed the descriptor of its result
            print(f"the result could not be sent: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)


def serve_by_forks(runner: Runner) -> None:
    Forks(runner).serve()


def serve_once(runner: Runner) -> None:
    """Serves one invocation. The guest then ends this process and starts another."""
    call = hear_all()
    variables, payload = call.read()
    done(call, *serve_here(runner, call, variables, payload))


def done(call: Call, code: int, result: bytes) -> None:
    """Sends the last part of the result, and reports the end of the invocation."""
    if len(result) > SMALL_BYTES:
        write(result)
        result = b""
    say(f"done {call.number} exited {code} {len(result)}", result)


def serve_here(
    runner: Runner, call: Call, variables: dict[str, str], payload: bytes | None
) -> tuple[int, bytes]:
    """Runs an invocation in this process. Returns exit status and last part of the result."""
    if call.replaces:
        os.environ.clear()
    os.environ.update(variables)
    code, result = runner.run(payload, variables)
    sys.stderr.flush()
    return code, result


def reseed() -> None:
    """Seeds random number generators again, so that two forks do not draw the same numbers.
    `secrets`, `uuid4` and `ssl` use the kernel's generator or detect the fork themselves.
    """
    modules = sys.modules
    if "random" in modules:
        modules["random"].seed()
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    if "uuid" in modules:
        vars(modules["uuid"])["_last_timestamp"] = None


def harden(closed: bool) -> None:
    """With `closed`, keeps processes of the same user from reading or writing this process's
    memory. A fork calls this without `closed`, so that its handler has an ordinary /proc/self.
    """
    import ctypes

    # After the parent's call, `pythonapi` keeps the function, so a fork need not search it.
    if ctypes.pythonapi.prctl(PR_SET_DUMPABLE, 0 if closed else 1, 0, 0, 0) != 0:
        raise Refused("the process could not be closed to others (PR_SET_DUMPABLE)")


def reap() -> None:
    """Reaps children that invocations have created with CLONE_PARENT, and the guest has killed."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
    print("a process of the previous invocation is still alive", file=sys.stderr, flush=True)
    os._exit(1)


def touch() -> None:
    """Does what each invocation does, so that a fork has its own copies of the memory pages for it
    before an invocation waits.
    """
    try:
        LOADS(DUMPS({}))
        Context({})
    except BaseException:
        pass  # classes of the module json may have been changed


def take(streams: list[int]) -> None:
    """In a fork: replaces the inherited standard streams and the result descriptor by `streams`."""
    null, result, log = streams
    os.dup2(null, 0)
    os.dup2(result, RESULT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for descriptor in streams:
        os.close(descriptor)


def end_children() -> None:
    """Kills the children that the handler has left: those of every thread of this process."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return  # there are no children; this check is cheaper than listing them
    found = True
    while found:
        found = False
        for thread in os.listdir("/proc/self/task"):
            try:
                with open(f"/proc/self/task/{thread}/children") as file:
                    children = file.read().split()
            except OSError:
                continue
            for child in map(int, children):
                found = True
                try:
                    os.kill(child, 9)
                    os.waitpid(child, 0)
                except OSError:
                    pass


def become() -> None:
    """Waits for the version to serve, and applies its working directory and variables."""
    _, directory_bytes, variables_bytes = exactly(HEAD_BYTES).split()
    directory = exactly(int(directory_bytes))
    text = exactly(int(variables_bytes)).decode("utf-8", "surrogateescape")
    os.environ.clear()
    os.environ.update(dict([one.split("=", 1) for one in text.split("\0")[:-1]]))
    os.chdir(directory)


def threads() -> int:
    """Returns the number of threads, including those of C libraries."""
    return len(os.listdir("/proc/self/task"))


def names_of_threads() -> str:
    import threading

    known = [one.name for one in threading.enumerate() if one is not threading.main_thread()]
    return ", ".join(known) or "not made by Python"


def held_in_common() -> str:
    """Returns a phrase about files or memory that forks would share; empty: there are none."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) not in (0, 1, 2, CONTROL, RESULT):
                return f"keeps {os.readlink(f'/proc/self/fd/{name}')} open"
        except OSError:
            pass  # the descriptor of the listing itself
    with open("/proc/self/maps", "rb") as file:
        shared = [line for line in file if line.split(None, 2)[1].startswith(b"rw-s")]
    return "shares memory" if shared else ""


def find_modules() -> None:
    """Adds /app and the function's packages to the module search path, also for interpreters that
    the handler starts.
    """
    sys.path[:0] = [HOME]
    if os.path.isdir(PACKAGES):
        import site

        site.addsitedir(PACKAGES)
        # Before the host's packages, so that the function's own versions are used.
        sys.path.remove(PACKAGES)
        sys.path.insert(1, PACKAGES)
    places = [HOME, PACKAGES, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, places)))


def main() -> None:
    global RESULT
    if os.environ.pop("QUILT_PREWARMED", "") == "1":
        import ctypes  # noqa: F401  # needed later; loaded now, while no invocation waits

        become()
    # Results go to the pipe at descriptor 1, printed output of the handler to the log.
    RESULT = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    find_modules()
    # A sandbox usually has one core and a low limit on processes, so libraries must not start a
    # thread for each CPU of the machine.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    # Arrow, which pandas imports, would start a thread for its memory; threads prevent forks.
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    if "logging" in sys.modules:
        show_logs(sys.modules["logging"])
    else:
        sys.meta_path.insert(0, ShownLogs)
    keep = os.environ.pop("QUILT_KEEP", "0") == "1"
    name = os.environ.pop("QUILT_HANDLER", "")
    try:
        runner = Runner(load(name))
        if keep:
            ready("keep")
            serve = serve_all
        elif threads() > 1:
            ready(
                "once the module starts threads when it is imported "
                f"({names_of_threads()}), so it cannot be forked: every call gets a process that "
                "was started for it"
            )
            serve = serve_once
        elif common := held_in_common():
            ready(
                f"once the module {common} when it is imported, which calls would "
                "have in common, so it is not forked: every call gets a process that was started "
                "for it"
            )
            serve = serve_once
        else:
            harden(True)
            gc.collect()
            gc.freeze()
            say("forks ahead")
            ready("fork")
            serve = serve_by_forks
    except Refused as error:
        sys.stderr.flush()
        say(f"refused {error}"[:500].replace("\n", " "))
        sys.exit(1)
    serve(runner)


if __name__ == "__main__":
    main()
