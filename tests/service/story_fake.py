"""The server of `server/main.py` in this process: its routes, use cases, pools and store, with fake
sandboxes.

Time is the event loop's own (`story_time.py`), so a story of minutes takes milliseconds, and
running the same story again gives the same result.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import httpx
import structlog

from manual_clock import ManualClock
from quiltfn.api.app import make_app
from quiltfn.model.invocation import CallResult, ExitKind
from quiltfn.model.version import VersionSpec
from quiltfn.ports import Call, Sandbox
from quiltfn.sandbox.fake import FakeSandbox, FakeSandboxes
from quiltfn.store.database import disk_reserve
from service.in_process import InProcess, request_of
from service.platform_harness import Harness, open_harness
from service.story_time import StoryLoop
from sqlite_template import with_schema

T = TypeVar("T")
PATIENCE_S = 300.0  # the time limit of a response, in the time of `StoryLoop`
DRAIN_S, GRACE_S = 30.0, 2.0  # the values of `main.serve`
EPOCH = 1_760_000_000.0
# A tiny disk reserve, since the disk is never full, and allocating 32 MiB takes as long as thirty
# requests.
RESERVE_BYTES = 4096
MARK = re.compile(r'echo "(?P<mark>(?P<key>\w+)\.\w+) ')
# Seconds for creating, cleaning and destroying a sandbox.
SPEEDS = ((0.0, 0.0, 0.0), (0.05, 0.003, 0.01), (2.0, 0.5, 0.5), (0.5, 0.02, 1.5))


class LoopClock(ManualClock):
    """A `ports.Clock` that reads the loop's time."""

    def __init__(self, loop: StoryLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()

    def unix(self) -> float:
        return EPOCH + self._loop.time()


class Pace:
    """Replaces the event that delays the end of sandboxes: each end takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def wait(self) -> None:
        await asyncio.sleep(self._seconds)

    def set(self) -> None:
        """Has no effect: `Pace` only delays for a limited time."""


class StoryFakes(FakeSandboxes):
    """Fake sandboxes that run `story_driver.handler`, counted by function."""

    def __init__(self, start_s: float, recycle_s: float, end_s: float) -> None:
        super().__init__(start_s=start_s, recycle_s=recycle_s)
        self.may_end = Pace(end_s)  # type: ignore[assignment]
        self.keys: dict[str, str] = {}
        self.most: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self._coming: Counter[str] = Counter()

    async def create(self, spec: VersionSpec) -> Sandbox:
        found = MARK.match(spec.handler)
        assert found is not None, f"no handler of a story: {spec.handler}"
        key = found["key"]
        self._coming[key] += 1
        self.most[key] = max(self.most[key], self.count_of(key))
        try:
            sandbox = await super().create(spec)
        finally:
            self._coming[key] -= 1
        assert isinstance(sandbox, FakeSandbox)
        self.keys[sandbox.id] = key
        sandbox._handle = lambda call: self._play(found["mark"], call)  # type: ignore[method-assign]
        return sandbox

    async def _play(self, mark: str, call: Call) -> CallResult:
        self.runs[call.environment["QUILT_INVOCATION_ID"]] += 1
        return await play(mark, call)

    def count_of(self, key: str) -> int:
        return self._coming[key] + sum(self.keys.get(one) == key for one in self.alive)

    def standing(self) -> list[FakeSandbox]:
        return [one for one in self.alive.values() if one.is_alive and one.id in self.keys]


async def play(mark: str, call: Call) -> CallResult:
    """Simulates the handler's shell."""
    word, _, argument = (call.payload or b"").decode().partition(" ")
    stdout = f"{mark} {call.environment['QUILT_FUNCTION_VERSION']}\n".encode()
    await asyncio.sleep(float(argument) if word == "sleep" else 0)
    return CallResult(
        kind=ExitKind.EXITED, code=int(argument) if word == "exit" else 0, stdout=stdout
    )


@contextlib.asynccontextmanager
async def serving(
    path: Path, fakes: StoryFakes, clock: LoopClock, change: Callable[[Harness], None]
) -> AsyncIterator[tuple[Harness, InProcess]]:
    """Runs a server. `change`: breaks something before the first request."""
    with mock.patch.object(disk_reserve, "RESERVE_BYTES", RESERVE_BYTES):
        async with open_harness(path, clock, fakes) as harness:
            change(harness)
            yield harness, InProcess(make_app(harness.services))


class FakeRunning:
    """A request as a task of the loop, during one run of the server."""

    def __init__(self, driver: FakeDriver, task: asyncio.Task[httpx.Response]) -> None:
        self._driver, self._task, self.is_lost = driver, task, False

    def done(self) -> bool:
        return self.is_lost or self._task.done()

    def answer(self) -> httpx.Response | None:
        if self.is_lost:
            return None
        return self._driver.run(asyncio.wait_for(self._task, PATIENCE_S))


class FakeDriver:
    """A `story_driver.Driver`. `change`: breaks something of every server before its start."""

    slow, delays, is_fleet = (2.0, 7.0, 40.0), (0, 0, 3, 90), False

    def __init__(self, speed: int, change: Callable[[Harness], None] = lambda _: None) -> None:
        self._speed, self._change = SPEEDS[speed % len(SPEEDS)], change
        self._loop = StoryLoop()
        memory = Path("/dev/shm")
        where = memory if memory.is_dir() else None
        self._root = Path(tempfile.mkdtemp(prefix="quiltfn-story-", dir=where))
        self._lives, self._runs = 0, Counter[str]()
        self._running: list[FakeRunning] = []
        self._said: list[str] = []
        self._log = structlog.get_config()
        structlog.configure(processors=[self._hear], cache_logger_on_first_use=False)
        self._loop.set_exception_handler(lambda _loop, context: self._said.append(str(context)))
        try:
            with_schema(self._data_dir)
            self._start()
        except BaseException:
            self._forget()
            raise

    @property
    def _data_dir(self) -> Path:
        return self._root / str(self._lives)

    # The API ---------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return self.run(asyncio.wait_for(self._send(method, path, body, headers), PATIENCE_S))

    async def _send(
        self, method: str, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        all_headers = {name.lower(): value for name, value in (headers or {}).items()}
        data = b""
        if body is not None:
            data, all_headers["content-type"] = json.dumps(body).encode(), "application/json"
        given = request_of(method, path, {"host": "localhost", **all_headers}, data)
        answer = await self._http.answer(given)
        await answer.aread()
        return answer

    def start_call(self, method: str, path: str, body: Any = None) -> FakeRunning:
        task = self._loop.create_task(self._send(method, path, body))
        running = FakeRunning(self, task)
        self._running = [one for one in self._running if not one.done()] + [running]
        self.wait(0.0)
        return running

    def unix(self) -> float:
        return EPOCH + self._loop.time()

    def runs(self, invocation_id: str) -> int:
        return self._runs[invocation_id]

    # The operator ----------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        async def pause() -> None:
            for _ in range(20):
                await asyncio.sleep(0)
            await asyncio.sleep(seconds)

        self.run(pause())

    def kill_sandbox(self, which: int) -> bool:
        async def kill(sandbox: FakeSandbox) -> None:
            sandbox.end_by_itself()
            await asyncio.sleep(0)

        standing = self._fakes.standing()
        if standing:
            self.run(kill(standing[which % len(standing)]))
        return bool(standing)

    def restart(self, *, kill: bool) -> None:
        if kill:
            before = self._data_dir
            self._lives += 1
            shutil.copytree(before, self._data_dir)  # a copy of the files that a kill would leave
            for call in self._running:
                call.is_lost = not call.done()
            self._running.clear()
            # the server still runs for a moment, but nothing that it does is kept
            self._fakes.runs = Counter()
            self.run(self._end())
            shutil.rmtree(before)
        else:
            self.run(self._drain())
            self.run(self._end())
        self._start()

    def sandboxes(self) -> int:
        return len(self._fakes.alive)

    def of_function(self, key: str) -> tuple[int, int] | None:
        now, most = self._fakes.count_of(key), self._fakes.most[key]
        self._fakes.most[key] = now
        return now, max(now, most)

    def complaints(self) -> list[str]:
        return self._said

    def close(self) -> None:
        try:
            self.run(self._end())
        finally:
            self._forget()

    def _forget(self) -> None:
        structlog.configure(**self._log)
        self.run(end_all())
        self._loop.close()
        shutil.rmtree(self._root)

    # Starts and ends -------------------------------------------------------------------------

    def _start(self) -> None:
        self._fakes = StoryFakes(*self._speed)
        self._fakes.runs = self._runs
        self._life = serving(self._data_dir, self._fakes, LoopClock(self._loop), self._change)
        self._harness, self._http = self.run(self._life.__aenter__())

    async def _drain(self) -> None:
        """Does the same as the server on SIGTERM; see `main._drain_on_sigterm`."""
        self._harness.services.health.drain()
        self._harness.services.work.waiters.release()
        await self._harness.dispatcher.stop()
        await self._harness.invoker.drain(DRAIN_S)
        await self._harness.pools.aclose()
        tasks = [one._task for one in self._running]
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE_S)

    async def _end(self) -> None:
        # The dispatcher is stopped first: closed pools refuse all invocations, and a running
        # dispatcher would start them again at once.
        await self._harness.dispatcher.stop()
        # Closing the pools ends all requests; the server may only be closed after that.
        await self._harness.pools.aclose()
        await asyncio.sleep(0.1)
        await self._life.__aexit__(None, None, None)

    def _hear(self, _logger: Any, level: str, event: Mapping[str, Any]) -> Any:
        if level in ("error", "critical", "exception"):
            text = f"{dict(event)}\n{traceback.format_exc()}"
            self._said.append(text)
        raise structlog.DropEvent


async def end_all() -> None:
    """Cancels everything that still waits, such as the grace periods of deleted functions."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
