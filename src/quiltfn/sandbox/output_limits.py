"""How much output of a call is kept, and from when on it needs room."""

import msgspec

MIB = 1024 * 1024
# Output beyond this is read only when there is room for long output.
SHORT_OUTPUT_BYTES = 256 * 1024


class OutputLimits(msgspec.Struct, frozen=True):
    """Bytes of each stream that are kept of a call. `result`: of what a runner's handler returned,
    and of a server's answer; 0: it counts as standard output.
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
