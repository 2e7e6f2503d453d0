"""Jobs on images in a thread, for tests of their results: a process takes longer."""

import asyncio
from typing import BinaryIO

from quiltfn.images.jobs import Job, Outcome, outcome_of
from quiltfn.images.processes import checked


class InThreadJobs:
    """A `JobRunner` without limits."""

    async def run(self, job: Job, file: BinaryIO | None = None) -> Outcome:
        return checked(await asyncio.to_thread(outcome_of, job, file))
