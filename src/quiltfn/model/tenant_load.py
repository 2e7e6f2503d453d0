"""A tenant's limits on several nodes: the nodes' reports of their loads, and their shares.

Nodes exchange reports every few seconds, and query no other node while an invocation waits. So a
node decides by the other nodes' last reports and its own load. Nothing here waits or reads a clock.
"""

from collections.abc import Iterable, Sequence

import msgspec

# The part of a rate that is divided evenly, so that every node can start a first invocation.
RESERVE = 0.1
# The maximum number of tenants in a report; those with most invocations are reported.
TENANTS_REPORTED_MAX = 500


class TenantLoad(msgspec.Struct, frozen=True, array_like=True):
    """A tenant's invocations on a node. `in_flight`: how many run or wait; `wanted`: the peak of
    `in_flight` since the last report, as if there were no limit; `asked_per_s`: invocations
    requested per second, including refused ones, if the tenant has a rate limit.
    """

    tenant_id: str
    in_flight: int = 0
    wanted: int = 0
    asked_per_s: float = 0.0


def has_room(in_flight: int, most: int, others: Iterable[TenantLoad]) -> bool:
    """Whether a node with `in_flight` invocations may start one more, of `most` on all nodes.

    The known total must be below `most`. If the nodes want more, no node exceeds its fair share:
    the largest number such that every node that wants it can have it (max-min fairness). The share
    is rounded up, since otherwise the last invocation could not start on any node.
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
    """How many invocations per second the node with the index `own` may take, of `most` on all
    nodes. `asked`: the rate requested at each. The shares of all nodes add up to `most`.

    A node's unused share, except the reserve, is lent to nodes that need it; if all need more,
    their shares are equal (max-min fairness).
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
    """At most `TENANTS_REPORTED_MAX` loads, since every node reads the report."""
    if len(loads) <= TENANTS_REPORTED_MAX:
        return loads
    by_size = sorted(loads, key=lambda load: max(load.wanted, load.asked_per_s), reverse=True)
    return by_size[:TENANTS_REPORTED_MAX]
