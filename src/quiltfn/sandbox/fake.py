"""Fake sandboxes without processes, for tests. They satisfy the port's contract.

They support these handlers: `echo TEXT` (or `echo $NAME`, from the environment), `cat` (outputs the
payload, or the body of a request to a server), `exit N`, `sleep SECONDS`, `oom`, `die` (the sandbox
ends during the invocation), `fail-to-start` (the sandbox cannot be created) and
`refuse-to-specialise`. The working directory `/missing` and paths below it do not exist.
"""

import asyncio
import itertools
from collections.abc import Callable

from quiltfn.model import environment
from quiltfn.model.invocation import CallResult, ExitKind
from quiltfn.model.output import OutputLog, to_text
from quiltfn.model.version import VersionSpec
from quiltfn.ports import (
    Call,
    Destination,
    Sandbox,
    SandboxCounters,
    SandboxFailed,
    SandboxRefused,
)
from quiltfn.ports.streamed_body import BodyCut, StreamedBody

PIECE = 65_536
STDOUT_MAX, STDERR_MAX = 6 * 1024 * 1024, 1024 * 1024


class FakeSandboxes:
    """`ports.StockedSandboxes` without prewarmed sandboxes. Times are in seconds. While a test has
    cleared `may_start` or `may_end`, starts or ends of sandboxes wait. `slower` multiplies the
    duration of `sleep`, so that tests can give a busy machine more time.
    """

    def __init__(self, *, start_s: float = 0.0, recycle_s: float = 0.0) -> None:
        self.start_s, self.recycle_s = start_s, recycle_s
        self.slower = 1.0
        self.created: list[str] = []
        self.destroyed: list[str] = []
        self.alive: dict[str, FakeSandbox] = {}
        self.most_alive = self.calls = 0  # `calls`: the number of invocations that started
        self.may_start, self.may_end = asyncio.Event(), asyncio.Event()
        self.may_start.set()
        self.may_end.set()
        self._numbers = itertools.count(1)
        self.deadline: float | None = None

    def end_by(self, at: float) -> None:
        """Only stores the deadline; no sandbox is ended."""
        self.deadline = at

    async def why_not(self) -> str | None:
        return None

    def count(self) -> int:
        return 0

    def images(self) -> frozenset[str]:
        return frozenset()

    def expect(self, spec: VersionSpec) -> None:
        """Does nothing: every sandbox is created on demand."""

    def give_up(self, mib: float, freed: Callable[[], None]) -> None:
        """Does nothing: there are no prewarmed sandboxes."""

    async def create(self, spec: VersionSpec) -> Sandbox:
        # Counts from here on, since a sandbox needs memory during its creation, too.
        sandbox = FakeSandbox(f"fake-{next(self._numbers)}", self)
        self.alive[sandbox.id] = sandbox
        self.most_alive = max(self.most_alive, len(self.alive))
        try:
            await asyncio.sleep(self.start_s)
            await self.may_start.wait()
            if spec.handler == "fail-to-start":
                raise SandboxFailed("there is no room for another sandbox")
        except BaseException:
            del self.alive[sandbox.id]
            raise
        self.created.append(sandbox.id)
        return sandbox


class FakeSandbox:
    """`ports.Sandbox`."""

    def __init__(self, name: str, source: FakeSandboxes) -> None:
        self.id = name
        self.is_alive = True
        self.is_clean = True
        self.note = ""
        self.uses_mib = 1.0
        self.blocked, self.cpu_us = 0, 0  # counters, set by tests
        self.refused: tuple[Destination, ...] = ()
        self._source = source
        self._spec: VersionSpec | None = None
        self._output = OutputLog()
        self._end: asyncio.Future[CallResult] | None = None
        self._on_clean: Callable[[], None] = _nothing
        self._on_lost: Callable[[], None] = _nothing
        self._destroyed: asyncio.Task[None] | None = None

    async def specialise(self, spec: VersionSpec) -> None:
        await asyncio.sleep(0)
        directory = spec.working_directory or "/"
        if directory == "/missing" or directory.startswith("/missing/"):
            raise SandboxRefused(f"working_directory {directory} does not exist in the sandbox")
        if spec.handler == "refuse-to-specialise":
            raise SandboxRefused("the sandbox refused to be that")
        self._spec = spec

    async def call(self, call: Call) -> CallResult:
        if not self.is_alive:
            return CallResult(
                kind=ExitKind.SANDBOX_GONE, reason="the sandbox had ended before the call"
            )
        self.is_clean = False
        self._source.calls += 1
        end: asyncio.Future[CallResult] = asyncio.get_running_loop().create_future()
        self._end, self._output = end, call.output
        handler = asyncio.ensure_future(self._run(call))
        try:
            return await end
        finally:
            handler.cancel()

    def start(self, call: Call, on_end: Callable[[CallResult], None]) -> None:
        asyncio.ensure_future(self.call(call)).add_done_callback(lambda task: on_end(task.result()))

    def end_call(self, kind: ExitKind, by: str, call: Call | None = None) -> bool:  # noqa: ARG002
        return self._finish(self._ended_now(kind, by))

    def watch(self, on_clean: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self._on_clean, self._on_lost = on_clean, on_lost

    async def used_mib(self) -> float:
        return self.uses_mib

    async def counters(self) -> SandboxCounters:
        return SandboxCounters(blocked=self.blocked, cpu_us=self.cpu_us, refused=self.refused)

    async def destroy(self) -> None:
        if self._destroyed is None:
            self._destroyed = asyncio.ensure_future(self._destroy())
        await asyncio.shield(self._destroyed)

    async def stopped(self) -> None:
        await self.destroy()

    def end_by_itself(self) -> None:
        """Ends the sandbox, during an invocation or between two. For tests."""
        self.is_alive = False
        self._finish(self._ended_now(ExitKind.SANDBOX_GONE))
        if self._destroyed is None:
            self._on_lost()

    async def _run(self, call: Call) -> None:
        """Runs the handler until it ends or reaches its deadline."""
        try:
            async with asyncio.timeout(call.timeout_s):
                result = await self._handle(call)
                await self._write(result)
        except TimeoutError:
            result = self._ended_now(ExitKind.DEADLINE)
            self.is_alive = False
        if result.kind is ExitKind.SANDBOX_GONE:
            self.end_by_itself()
            return
        self._finish(result)
        if self.is_alive:
            asyncio.get_running_loop().call_later(self._source.recycle_s, self._cleaned)

    async def _handle(self, call: Call) -> CallResult:
        assert self._spec is not None, "a call before it was specialised"
        command, _, argument = self._spec.handler.partition(" ")
        variables = call.environment
        if not call.replaces_environment:
            variables = environment.of_version(self._spec) | variables
        await asyncio.sleep(float(argument) * self._source.slower if command == "sleep" else 0)
        match command:
            case "echo":
                shown = variables.get(argument[1:], "") if argument.startswith("$") else argument
                return _exited(stdout=shown.encode() + b"\n")
            case "cat":
                if call.body is not None:
                    return await _body_of(call.body)
                return _exited(stdout=call.payload or b"")
            case "exit":
                return _exited(int(argument))
            case "sleep":
                return _exited()
            case "oom":
                return CallResult(kind=ExitKind.SIGNALLED, code=9, out_of_memory=True)
            case "die":
                return CallResult(kind=ExitKind.SANDBOX_GONE)
        return _exited(127, stderr=f"sh: 1: {command}: not found\n".encode())

    async def _write(self, result: CallResult) -> None:
        """Writes the output in pieces, as a handler does."""
        for stream, data in (("stdout", result.stdout), ("stderr", result.stderr)):
            for start in range(0, len(data), PIECE):
                if self._end is not None:
                    self._output.append(stream, data[start : start + PIECE])
                await asyncio.sleep(0)

    def _ended_now(self, kind: ExitKind, by: str | None = None) -> CallResult:
        """Returns a result with the output written so far."""
        stdout, stderr = self._output.take()
        order = to_text(self._output.order)
        return CallResult(kind=kind, by=by, stdout=stdout, stderr=stderr, output_order=order)

    def _cleaned(self) -> None:
        if self.is_alive:
            self.is_clean = True
            self._on_clean()

    def _finish(self, result: CallResult) -> bool:
        future, self._end = self._end, None
        if future is None or future.done():
            return False
        future.set_result(result)
        return True

    async def _destroy(self) -> None:
        self.is_alive = False
        self._finish(self._ended_now(ExitKind.SANDBOX_GONE))
        await self._source.may_end.wait()
        del self._source.alive[self.id]
        self._source.destroyed.append(self.id)


def _exited(code: int = 0, stdout: bytes = b"", stderr: bytes = b"") -> CallResult:
    return CallResult(
        kind=ExitKind.EXITED,
        code=code,
        stdout=stdout[:STDOUT_MAX],
        stderr=stderr[:STDERR_MAX],
        stdout_dropped=max(0, len(stdout) - STDOUT_MAX),
        stderr_dropped=max(0, len(stderr) - STDERR_MAX),
    )


async def _body_of(body: StreamedBody) -> CallResult:
    try:
        return _exited(stdout=b"".join([piece async for piece in body.pieces()]))
    except BodyCut as error:
        return CallResult(kind=ExitKind.BODY_CUT, reason=str(error))


def _nothing() -> None:
    pass
