"""The keeper: a root process that ends what is left when the launcher is killed.

The kernel ends the server with the launcher, but not what a compromised server has started in a
session of its own, or a server that has asked the kernel not to; nor sandboxes of gVisor. The
keeper waits until the launcher is gone, and kills every control group of its server. It holds
nothing else of the launcher's, so the next start need not wait for it.
"""

import os
import signal
from collections.abc import Callable

IN_ORDER = b"."


class Keeper:
    """`start` forks it; call `end` once nothing is left to kill. `end_all`: kills the control
    groups.
    """

    def __init__(self, end_all: Callable[[], object]) -> None:
        self._end_all = end_all
        # The launcher alone has the writing end: the programs that it starts do not inherit it.
        self._reader, self._writer = os.pipe()
        self.pid = 0

    def start(self) -> int:
        """Forks it; returns its pid. Raises OSError."""
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._wait_and_end()
            finally:
                os._exit(0)
        return self.pid

    def end(self) -> None:
        """Makes it exit without killing anything."""
        os.write(self._writer, IN_ORDER)
        os.close(self._writer)
        os.close(self._reader)

    def _wait_and_end(self) -> None:
        os.setsid()  # signals to the launcher's process group must not reach the keeper
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        # Locks and sockets of the launcher's have to end with it.
        os.closerange(0, self._reader)
        os.closerange(self._reader + 1, os.sysconf("SC_OPEN_MAX"))
        if os.read(self._reader, 1) != IN_ORDER:
            self._end_all()
