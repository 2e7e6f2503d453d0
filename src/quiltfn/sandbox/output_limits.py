"""Limits on the output of an invocation, and the size from which it counts as long output."""

import msgspec

MIB = 1024 * 1024
# Output beyond this is read only when there is room for long output.
SHORT_OUTPUT_BYTES = 256 * 1024


class OutputLimits(msgspec.Struct, frozen=True):
    """The maximum bytes kept of each stream of an invocation. `result`: of the result of a runner's
    handler, and of a server's response; 0: these count as standard output.
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
