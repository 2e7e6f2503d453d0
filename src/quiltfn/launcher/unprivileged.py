"""Run a function in a child process that has given up root."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quiltfn.launcher import confine, syscalls

NOBODY = 65_534
FAILED = 70


class NoResult(Exception):
    """The child exited with `code` after it printed the reason, or help."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def result_of(function: Callable[[], Any], program: Sequence[Path]) -> Any:
    """Returns the result of `function`, which the child passes on as JSON. `program`: the
    directories of its imports. The child of a process without root runs as the same user.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os._exit(_run(function, program, writer))
    os.close(writer)
    with open(reader) as pipe:
        result = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code or not result:
        raise NoResult(code if code >= 0 else FAILED)
    return json.loads(result)


def _run(function: Callable[[], Any], program: Sequence[Path], writer: int) -> int:
    code = FAILED
    try:
        if os.geteuid() == 0:
            if not all(map(confine.is_reachable, program)):
                syscalls.unshare_mounts()
                confine.reveal(program)
            confine.become(NOBODY, NOBODY)
        with open(writer, "w") as pipe:
            json.dump(function(), pipe)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else FAILED
    except BaseException:
        traceback.print_exc()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    return code
