"""Runs each job on an image in a separate process, which can be killed at any time."""

import asyncio
import os
import signal
import subprocess
import sys
from typing import BinaryIO, Protocol

import msgspec

from quiltfn.images.archive_rules import refusal
from quiltfn.images.jobs import Failed, Job, Outcome, Refused
from quiltfn.model.errors import StoreUnavailable, Unprocessable

# -I ignores the caller's environment and working directory.
COMMAND = (sys.executable, "-I", "-m", "quiltfn.images.worker")
OUTCOME_MAX_BYTES = 16 * 1024 * 1024
# Seconds of a job's time limit per second of its CPU limit; jobs run with low priority.
WALL_FOR_CPU = 4
RETRY_S = 10


class JobRunner(Protocol):
    """Runs jobs on images."""

    async def run(self, job: Job, file: BinaryIO | None = None) -> Outcome:
        """Runs a job and returns its outcome. `file`: its archive. A cancellation ends the job
        before it propagates. Raises `Unprocessable` for errors in the archive, `OSError` for those
        of the system, and `StoreUnavailable` if the job was killed.
        """


def checked(outcome: Outcome) -> Outcome:
    """Raises the error of a failed job; returns any other outcome."""
    if isinstance(outcome, Refused):
        raise Unprocessable(outcome.message, details=outcome.details)
    if isinstance(outcome, Failed):
        raise OSError(outcome.errno, os.strerror(outcome.errno))
    return outcome


class JobProcesses:
    """A `JobRunner` that starts a process for each job."""

    async def run(self, job: Job, file: BinaryIO | None = None) -> Outcome:
        process = await _start(job, file)
        wall_s = WALL_FOR_CPU * job.uses.cpu_s
        try:
            async with asyncio.timeout(wall_s):
                data = await _read(process)
                code = await process.wait()
        except TimeoutError:
            raise _killed(f"it took more than {wall_s} s") from None
        finally:
            await _end(process)
        if code == -signal.SIGXCPU:
            raise refusal(f"unpacking it takes more than {job.uses.cpu_s} s of CPU time")
        if code < 0:
            raise _killed(f"its process was killed by signal {-code}")
        if code > 0 or len(data) > OUTCOME_MAX_BYTES:
            raise RuntimeError(f"a job on an image ended with {code}: see the log above")
        return checked(msgspec.json.decode(data, type=Outcome))


async def _start(job: Job, file: BinaryIO | None) -> asyncio.subprocess.Process:
    arguments = (*COMMAND, str(os.getpid()), msgspec.json.encode(job).decode())
    stdin = subprocess.DEVNULL if file is None else file
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(*arguments, stdin=stdin, stdout=subprocess.PIPE)
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting])
        if starting.exception() is None:
            await _end(starting.result())
        raise


async def _read(process: asyncio.subprocess.Process) -> bytes:
    """Reads the output of a process, up to a limit."""
    assert process.stdout is not None
    data = bytearray()
    while len(data) <= OUTCOME_MAX_BYTES:
        piece = await process.stdout.read(OUTCOME_MAX_BYTES)
        if not piece:
            break
        data += piece
    return bytes(data)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends a process, and returns after its end, even if cancelled."""
    if process.returncode is None:
        process.kill()
    ended = asyncio.ensure_future(process.wait())
    try:
        await asyncio.shield(ended)
    except asyncio.CancelledError:
        await asyncio.wait([ended])
        raise


def _killed(why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"processing of the image was ended: {why}",
        hint="send the request again",
        retry_after=RETRY_S,
    )
