"""The keeper: a root process that ends what is left when the launcher is killed.

When the launcher ends, the kernel kills the server. It does not kill a compromised server that has
opted out of this, processes that such a server has started in another session, or sandboxes of
gVisor. The keeper waits for the launcher's end, and then kills every control group of its server.
It shares no locks or sockets with the launcher, so the next start need not wait for it.
"""

import os
import signal
from collections.abc import Callable

from quiltfn.launcher.signals import SETTABLE

IN_ORDER = b"."


class Keeper:
    """`start` forks the keeper; call `end` once nothing is left to kill. `end_all` kills the
    control groups.
    """

    def __init__(self, end_all: Callable[[], object]) -> None:
        self._end_all = end_all
        # Only the launcher has the writing end: programs that it starts do not inherit it.
        self._reader, self._writer = os.pipe()
        self.pid = 0

    def start(self) -> int:
        """Forks the keeper, and returns its pid. Raises OSError."""
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._wait_and_end()
            finally:
                os._exit(0)
        return self.pid

    def end(self) -> None:
        """Makes the keeper exit without killing anything."""
        os.write(self._writer, IN_ORDER)
        os.close(self._writer)
        os.close(self._reader)

    def _wait_and_end(self) -> None:
        os.setsid()  # signals to the launcher's process group must not reach the keeper
        signal.set_wakeup_fd(-1)
        for number in SETTABLE:
            signal.signal(number, signal.SIG_IGN)
        # The launcher's locks and sockets have to end with the launcher.
        os.closerange(0, self._reader)
        os.closerange(self._reader + 1, os.sysconf("SC_OPEN_MAX"))
        if os.read(self._reader, 1) != IN_ORDER:
            self._end_all()
