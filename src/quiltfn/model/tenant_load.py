"""A tenant's limits over several nodes: what each node says of its calls, and what each may do.

Nodes hear of each other every few seconds and ask nobody while a call waits. So a node decides by
what the others said last and by what it has itself. Nothing here waits or reads a clock.
"""

from collections.abc import Iterable, Sequence

import msgspec

# The part of a rate that is divided evenly, whoever has calls: a node at which they begin has some.
RESERVE = 0.1
# What one node may say: beyond that the tenants with most calls.
TENANTS_REPORTED_MAX = 500


class TenantLoad(msgspec.Struct, frozen=True, array_like=True):
    """A tenant's calls on a node. `in_flight`: how many run or wait; `wanted`: how many there would
    have been at most since the last report, without the limit; `asked_per_s`: calls a second that
    came, refused ones counted in, of a tenant that has a limit of those.
    """

    tenant_id: str
    in_flight: int = 0
    wanted: int = 0
    asked_per_s: float = 0.0


def has_room(in_flight: int, most: int, others: Iterable[TenantLoad]) -> bool:
    """Whether a node with so many calls in flight may have one more, of `most` on all nodes.

    All together must be below `most`, as far as is known. Where they would be more no node has
    more than its fair share: the largest number that all may have which want as many (max-min
    fairness), rounded up, for else nobody could have the last one.
    """
    own = in_flight + 1
    together = shared = own
    count = 1
    for load in others:
        wanted = max(load.wanted, load.in_flight)
        together += load.in_flight
        shared += min(wanted, own)
        count += wanted > 0
    return together <= most and (shared <= most or in_flight * count < most)


def rate_share(most: float, asked: Sequence[float], own: int) -> float:
    """How many calls a second the node with the index `own` may take, of `most` on all nodes.
    `asked`: what came to each. The shares of all nodes are `most` together.

    What a node does not use is lent to those that need it, but for the reserve; where all need
    more, they have the same (max-min fairness).
    """
    count = len(asked)
    wants = [max(one, most * RESERVE / count) for one in asked]
    spare = most - sum(wants)
    if spare >= 0:
        return wants[own] + spare / count
    left, level = most, most / count
    for index, want in enumerate(sorted(wants)):
        level = left / (count - index)
        if want > level:
            break
        left -= want
    return min(wants[own], level)


def bounded_loads(loads: Sequence[TenantLoad]) -> Sequence[TenantLoad]:
    """At most `TENANTS_REPORTED_MAX`: a report is read by every node."""
    if len(loads) <= TENANTS_REPORTED_MAX:
        return loads
    by_size = sorted(loads, key=lambda load: max(load.wanted, load.asked_per_s), reverse=True)
    return by_size[:TENANTS_REPORTED_MAX]
