"""The program that does one job on an image and ends: `worker PARENT_PID JOB`, with the archive as
its standard input. It writes the outcome to its standard output.

It ends with the process that started it, takes no more than the job may use, and yields the
processor and, when memory is short, its life to the server.
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
    """Does the job that the arguments name."""
    parent, job = int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Job)
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above took effect
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
    # By the first one it ends with SIGXCPU, which nothing else sends.
    resource.setrlimit(resource.RLIMIT_CPU, (uses.cpu_s, uses.cpu_s + 1))


if __name__ == "__main__":
    main()
