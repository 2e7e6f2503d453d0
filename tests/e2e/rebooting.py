"""`quiltfn` with a server that sees simulated reboots, and that has a planted bug on request:
`rebooting.py FILE MISTAKE serve …`.

FILE has the id of the machine's current boot. MISTAKE is one of `MISTAKES` or `FLEET_MISTAKES`.
Apart from the bug, quiltfn's code is unchanged.
"""

import os
import sys
from typing import Any, NoReturn

from quiltfn.__main__ import main

MISTAKES = {
    "none": "",
    # Bug: an asynchronous invocation is acknowledged before it is on disk.
    "early": """
import asyncio
from quiltfn.store.calls import work
in_time = work.SqlWork.accept
async def late(self, accepted):
    await asyncio.sleep(0.3)
    await in_time(self, accepted)
async def early(self, accepted):
    self.late = [*getattr(self, "late", [])[-1000:], asyncio.create_task(late(self, accepted))]
work.SqlWork.accept = early
""",
    # Bug: a start ignores attempts that had started.
    "untold": """
from quiltfn.store.calls.journal import SpoolJournal
SpoolJournal.opened = lambda self, record: None
""",
}
# Bugs of a node in a fleet.
FLEET_MISTAKES = {
    "none": "",
    "lose": MISTAKES["early"],
    # Bug: another node can also claim the first invocation that a node claims.
    "double": """
from quiltfn.store.calls.work import SqlWork
claim = SqlWork.claim
async def claim_and_give_back(self, *given, **more):
    found = await claim(self, *given, **more)
    await self.release([one.record.invocation_id for one in found.work[:1]])
    return found
SqlWork.claim = claim_and_give_back
""",
    # Bug: a node starts instances up to the function's maximum, regardless of other nodes.
    "exceed": """
from quiltfn.fleet.slots import SlotKeeper
def allow(self, row, count):
    self._pools.allow(row.function_id, row.max_instances, row.max_instances)
SlotKeeper._allow = allow
""",
}
SERVER = """
import sys
from pathlib import Path
from quiltfn.server.main import main
from quiltfn.store.calls import work
work.MACHINE_BOOT = Path({boot_id!r})
{mistake}
sys.exit(main())
"""


def run(boot_id: str, mistake: str, *arguments: str) -> None:
    execve, server = (
        os.execve,
        SERVER.format(boot_id=boot_id, mistake=(MISTAKES | FLEET_MISTAKES)[mistake]),
    )

    def with_ours(path: Any, command: Any, environment: Any) -> NoReturn:
        if "quiltfn.server.main" in command:
            at = command.index("quiltfn.server.main")
            command = [*command[: at - 1], "-c", server, *command[at + 1 :]]
        execve(path, command, environment)

    os.execve = with_ours  # type: ignore[assignment]
    sys.argv[1:] = arguments
    main()


if __name__ == "__main__":
    run(*sys.argv[1:])
