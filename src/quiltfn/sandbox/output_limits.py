"""Limits on the output of an invocation, and the size from which it counts as long output."""

import msgspec

MIB = 1024 * 1024
# Output above this size is read only while there is room for long output.
SHORT_OUTPUT_BYTES = 256 * 1024


class OutputLimits(msgspec.Struct, frozen=True):
    """The maximum bytes kept of each stream of an invocation. `result`: the maximum for the result
    of a runner's handler, and for a web server's response; 0: these count as standard output.
    """

    stdout: int
    stderr: int
    result: int = 0

    @property
    def answer(self) -> int:
        return self.result or self.stdout

    @property
    def together(self) -> int:
        return self.stdout + self.stderr + self.result
