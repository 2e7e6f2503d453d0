"""Which accepted work is started next, and how much of it. Nothing here asks a clock or does I/O.

Tenants take turns, and so do the functions of each: one call at a turn. What may not start anything
at the moment is not in the rota. So a function waits for one turn of each other function of its
tenant and, before each of these and its own, for one of each other tenant, whatever is in their
queues.

Callers who wait for a result come first: accepted work gets what they leave. It joins their line
only once it has waited for `STARVED_S`, and then with one call at a time, so it takes no more of a
full function than one more caller would.
"""

from collections.abc import Callable

import msgspec

STARVED_S = 2.0
# How much work is claimed ahead of its start: what is begun in about so long, within these bounds.
SLICE_S = 0.25
SLICE_LEAST, SLICE_MOST = 8, 500


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One function's accepted work on this node. `running`: attempts under way; `in_line`: how many
    of them wait for an instance. `waited_s`: for how long the next one has been due.
    """

    running: int
    in_line: int
    waited_s: float
    max_concurrency: int | None = None


def may_start(load: Load, headroom: int) -> int:
    """How many attempts of the function may start now. `headroom`: how many calls could begin
    without a wait, behind those that wait already.
    """
    most = headroom
    if most <= 0:
        most = int(load.waited_s >= STARVED_S and not load.in_line)
    if load.max_concurrency is not None:
        most = min(most, load.max_concurrency - load.running)
    return max(0, most)


def slice_size(begun_per_s: float, could_begin: int) -> int:
    """How much to claim of a function's work, so that a claim is paid for many calls, and that not
    much is held of a function whose calls are long.
    """
    return max(SLICE_LEAST, min(SLICE_MOST, max(could_begin, round(begun_per_s * SLICE_S))))


class Rota:
    """The functions that may start something, in the order of their turns."""

    def __init__(self) -> None:
        self._tenants: dict[str, dict[str, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def add(self, tenant_id: str, function_id: str) -> None:
        """At the end of its tenant's; where it is there already, it stays where it is."""
        self._tenants.setdefault(tenant_id, {}).setdefault(function_id)

    def remove(self, tenant_id: str, function_id: str) -> None:
        """Takes a function out, if it is there."""
        functions = self._tenants.get(tenant_id, {})
        functions.pop(function_id, None)
        if not functions:
            self._tenants.pop(tenant_id, None)

    def turn(self, start: Callable[[str], bool]) -> str | None:
        """Gives a turn to the next function: the first for which `start` says that it started one.
        The others that were asked cannot start anything, and leave. Returns who had it, or None.
        """
        for tenant_id in list(self._tenants):
            for function_id in list(self._tenants.get(tenant_id, ())):
                # Before, for `start` may take the function out, or add it again.
                self.remove(tenant_id, function_id)
                if start(function_id):
                    functions = self._tenants.pop(tenant_id, {})
                    self._tenants[tenant_id] = functions | {function_id: None}
                    return function_id
        return None
