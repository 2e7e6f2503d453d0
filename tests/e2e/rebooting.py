"""`quiltfn` with a server that is told of starts of the machine, and makes a mistake if told to:
`rebooting.py FILE MISTAKE serve …`.

FILE says which start of the machine this is. MISTAKE is one of `MISTAKES`, or "none". Nothing of
quiltfn knows of either.
"""

import os
import sys
from typing import Any, NoReturn

from quiltfn.__main__ import main

MISTAKES = {
    "none": "",
    # Work is acknowledged before it is on disk.
    "early": """
import asyncio
from quiltfn.store import work
in_time = work.SqlWork.accept
async def late(self, accepted):
    await asyncio.sleep(0.3)
    await in_time(self, accepted)
async def early(self, accepted):
    self.late = [*getattr(self, "late", [])[-1000:], asyncio.create_task(late(self, accepted))]
work.SqlWork.accept = early
""",
    # A start finds no trace of attempts that had begun.
    "untold": """
from quiltfn.store.journal import SpoolJournal
SpoolJournal.opened = lambda self, record: None
""",
}
SERVER = """
import sys
from pathlib import Path
from quiltfn.main import main
from quiltfn.store import work
work.MACHINE_BOOT = Path({boot_id!r})
{mistake}
sys.exit(main())
"""


def run(boot_id: str, mistake: str, *arguments: str) -> None:
    execve, server = os.execve, SERVER.format(boot_id=boot_id, mistake=MISTAKES[mistake])

    def with_ours(path: Any, command: Any, environment: Any) -> NoReturn:
        if "quiltfn.main" in command:
            at = command.index("quiltfn.main")
            command = [*command[: at - 1], "-c", server, *command[at + 1 :]]
        execve(path, command, environment)

    os.execve = with_ours  # type: ignore[assignment]
    sys.argv[1:] = arguments
    main()


if __name__ == "__main__":
    run(*sys.argv[1:])
