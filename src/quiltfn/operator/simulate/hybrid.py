"""A published keep-alive policy, for comparison with the server's policies (Shahrad et al.,
Serverless in the Wild, USENIX ATC 2020, section 4), without its ARIMA branch. The server does not
offer it.
"""

from quiltfn.model.keepalive import HORIZON, MINUTE_S, Window, Windows


class Hybrid:
    """A histogram of idle times in bins of a minute over four hours. An instance is stopped at
    once, started again at 0.9 of the 5th percentile (rounded down to its bin; if that is the first
    bin, the instance is kept instead), and ended at 1.1 of the 99th percentile (rounded up).

    Without a representative histogram (the coefficient of variation of the bins' counts is at most
    2, or half of the idle times lie beyond the last bin) the rule is `idle_s`, as in `Fixed`. The
    paper uses ARIMA for functions with too many idle times beyond the last bin; here `idle_s`
    applies to them.
    """

    __slots__ = ("_beyond", "_counts", "_ended", "_squares", "_total", "idle_s")

    def __init__(self, idle_s: float) -> None:
        self.idle_s = idle_s
        self._counts = [0] * HORIZON
        self._total = self._squares = self._beyond = 0
        self._ended: float | None = None

    def called(self, at: float) -> None:
        if self._ended is None:
            return
        gap = int((at - self._ended) / MINUTE_S)
        self._ended = None
        if gap >= HORIZON:
            self._beyond += 1
            return
        self._squares += 2 * self._counts[gap] + 1
        self._counts[gap] += 1
        self._total += 1

    def ended(self, at: float) -> None:
        self._ended = at

    def windows(self) -> Windows:
        since = self._ended
        if since is None:
            return ()
        if not self._is_representative():
            return (Window(since, since + self.idle_s),)
        head, tail = self._percentile(0.05), self._percentile(0.99) + 1
        begins = since if head == 0 else since + 0.9 * head * MINUTE_S
        return (Window(begins, since + 1.1 * tail * MINUTE_S),)

    def _is_representative(self) -> bool:
        if self._beyond >= self._total:
            return False
        mean = self._total / HORIZON
        return self._squares / HORIZON - mean * mean > (2.0 * mean) ** 2

    def _percentile(self, share: float) -> int:
        """Returns the first bin for which this share of the idle times lies in it or below."""
        seen = 0
        for gap, count in enumerate(self._counts):
            seen += count
            if seen >= share * self._total:
                return gap
        return HORIZON - 1
