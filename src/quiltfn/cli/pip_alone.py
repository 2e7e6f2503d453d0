"""Runs pip so that it cannot start another program: it cannot build a package from source.

`--only-binary :all:` applies only to indexes. A wheel may depend on a directory or a repository by
its URL, and pip would build that; a build always runs another process. Run this as a script.
"""

import runpy
import sys

STARTS = ("subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pty.")


def refuse(event: str, _arguments: object) -> None:
    """An audit hook; once added it cannot be removed."""
    if event.startswith(STARTS):
        raise PermissionError("no other program is started while packages are installed")


if __name__ == "__main__":
    sys.addaudithook(refuse)
    runpy.run_module("pip", run_name="__main__", alter_sys=True)
