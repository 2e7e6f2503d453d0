"""The program `quiltfn`."""

import io
import os
import sys

from quiltfn.cli import root


def main() -> int:
    """Run the program; return the exit code. Characters that the terminal lacks are escaped."""
    if "_ARGCOMPLETE" in os.environ:
        from quiltfn.cli import completion  # noqa: PLC0415 — for a shell that asks alone

        completion.answer(os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT", ""))
    sys.unraisablehook = root.of_interrupted
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return root.run(sys.argv[1:])
