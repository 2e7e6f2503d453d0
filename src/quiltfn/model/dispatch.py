"""Decides which asynchronous invocations start next, and how many, without a clock or I/O.

Tenants take turns, and so do the functions of each tenant: one invocation per turn. A function that
may not start an invocation now is not in the ready queue. So between two turns of a function, each
other function of its tenant has one turn, and between two turns of its tenant, each other tenant
has one, however long their queues are.

Callers who wait for a result come first: asynchronous invocations get the instances that are left.
An asynchronous invocation joins the callers' wait queue only after it has waited for `STARVED_S`,
and only one at a time. So in a full function, all of them together count like one more caller.
"""

from collections.abc import Callable

import msgspec

STARVED_S = 2.0
# How many invocations are claimed ahead: those that will start in the next SLICE_S, within bounds.
SLICE_S = 0.25
SLICE_LEAST, SLICE_MOST = 8, 500


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One function's asynchronous invocations on this node. `running`: attempts in progress;
    `in_line`: those of them that wait for an instance. `waited_s`: for how long the next invocation
    has been due.
    """

    running: int
    in_line: int
    waited_s: float
    max_concurrency: int | None = None


def may_start(load: Load, headroom: int) -> int:
    """How many attempts of the function may start now. `headroom`: how many invocations could start
    without a wait, in addition to those that wait already.
    """
    most = headroom
    if most <= 0:
        most = int(load.waited_s >= STARVED_S and not load.in_line)
    if load.max_concurrency is not None:
        most = min(most, load.max_concurrency - load.running)
    return max(0, most)


def slice_size(begun_per_s: float, could_begin: int) -> int:
    """How many invocations of a function to claim: enough to spread the cost of a claim over many,
    but few if invocations are long.
    """
    return max(SLICE_LEAST, min(SLICE_MOST, max(could_begin, round(begun_per_s * SLICE_S))))


class Rota:
    """The functions that may start an invocation, in order of their turns."""

    def __init__(self) -> None:
        self._tenants: dict[str, dict[str, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def add(self, tenant_id: str, function_id: str) -> None:
        """Adds a function at the end of its tenant's turns; keeps its position if it has one."""
        self._tenants.setdefault(tenant_id, {}).setdefault(function_id)

    def remove(self, tenant_id: str, function_id: str) -> None:
        """Removes a function, if it is there."""
        functions = self._tenants.get(tenant_id, {})
        functions.pop(function_id, None)
        if not functions:
            self._tenants.pop(tenant_id, None)

    def turn(self, start: Callable[[str], bool]) -> str | None:
        """Calls `start` for the functions in order until one has started an invocation. Returns the
        id of that function, or None. Removes the functions before it, which cannot start any.
        """
        for tenant_id in list(self._tenants):
            for function_id in list(self._tenants.get(tenant_id, ())):
                # Removed first, since `start` may remove the function or add it again.
                self.remove(tenant_id, function_id)
                if start(function_id):
                    functions = self._tenants.pop(tenant_id, {})
                    self._tenants[tenant_id] = functions | {function_id: None}
                    return function_id
        return None
