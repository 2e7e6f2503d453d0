"""The program `quiltfn`."""

import os
import sys
from typing import TYPE_CHECKING

from quiltfn.cli import root

if TYPE_CHECKING:
    from quiltfn.cli.completion import ParserOf


def main(parser_of: "ParserOf") -> int:
    """Run the program; return the exit code. `parser_of`: for completion."""
    if "_ARGCOMPLETE" in os.environ:
        from quiltfn.cli import completion  # noqa: PLC0415 — for a shell that asks alone

        completion.answer(
            os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT", ""), parser_of
        )
    sys.unraisablehook = root.of_interrupted
    return root.run(sys.argv[1:])
