"""`quiltfn` with a server whose wall clock can be set: `jumping.py LIBRARY JUMP serve …`.

The library (jump.c) is preloaded only into the server's process, and reads the difference to the
real time from the file JUMP. quiltfn's code is unaffected.
"""

import os
import sys
from typing import Any, NoReturn

from quiltfn.__main__ import main

library, jump, *arguments = sys.argv[1:]
execve = os.execve


def with_the_clock(path: Any, command: Any, environment: Any) -> NoReturn:
    if "quiltfn.server.main" in command:
        environment = {**environment, "LD_PRELOAD": library, "QUILTFN_TEST_JUMP": jump}
    execve(path, command, environment)


os.execve = with_the_clock  # type: ignore[assignment]
sys.argv[1:] = arguments
main()
