"""The program that runs one job on an image: `worker PARENT_PID JOB`, with the archive as standard
input. It writes the outcome to standard output.

It ends with the process that started it, and obeys the job's limits. The server has priority over
it for CPU time, and if memory runs out, the kernel kills the worker before the server.
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

import msgspec

from quiltfn.images.jobs import Job, JobLimits, outcome_of

SET_PARENT_DEATH_SIGNAL = 1
NICE, OOM_SCORE, OPEN_FILES = 10, 500, 64


def main() -> None:
    """Runs the job that the arguments specify."""
    parent, job = int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Job)
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the line above took effect
        sys.exit(1)
    _limit(job.uses)
    with open(0, "r+b", closefd=False) as file:
        outcome = outcome_of(job, file)
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


def _limit(uses: JobLimits) -> None:
    os.nice(NICE)
    score = Path("/proc/self/oom_score_adj")
    score.write_text(str(max(OOM_SCORE, int(score.read_text()))))
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, uses.file_bytes),
        (resource.RLIMIT_AS, uses.memory_bytes),
    ):
        resource.setrlimit(kind, (most, most))
    # The soft limit ends the process with SIGXCPU, which tells the parent the cause.
    resource.setrlimit(resource.RLIMIT_CPU, (uses.cpu_s, uses.cpu_s + 1))


if __name__ == "__main__":
    main()
