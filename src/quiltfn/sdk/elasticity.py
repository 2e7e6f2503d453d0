"""`client.elasticity`: the numbers of instances of functions."""

from quiltfn.sdk.functions import get_function
from quiltfn.sdk.methods import AnyClient, Group, Method
from quiltfn.sdk.request import Flow, ask, get, post, segment
from quiltfn.wire import Operation, PoolTarget, Scaling

BASE = "/api/elasticity"


def set_pool_target(
    function: str, *, min_instances: int | None = None, max_instances: int | None = None
) -> Flow[Scaling]:
    """Set a function's minimum and maximum instances, at once and without a new version.

    Omitted values stay the same.
    """
    found = yield from get_function(function)
    target = PoolTarget(
        min_instances=found.min_instances if min_instances is None else min_instances,
        max_instances=found.max_instances if max_instances is None else max_instances,
    )
    return (
        yield from ask(
            post(
                f"{BASE}/functions/{segment(found.id)}/pool-target",
                Scaling,
                target,
                headers={"X-Tenant-Id": found.tenant_id},
                is_repeatable=True,
            )
        )
    )


def create_operation(
    function: str,
    *,
    min_instances: int,
    max_instances: int,
    idempotency_key: str,
    action_id: str,
) -> Flow[Operation]:
    """Like `set_pool_target`, but executed only once for each idempotency key. `action_id`: a name
    that you choose for the operation.

    Raises ConflictError if an operation was already executed for this key; `details` is then that
    operation, with `operation_id` for `get_operation`.
    """
    found = yield from get_function(function)
    return (
        yield from ask(
            post(
                f"{BASE}/control/functions/{segment(found.id)}/pool-target",
                Operation,
                PoolTarget(min_instances=min_instances, max_instances=max_instances),
                headers={
                    "X-Tenant-Id": found.tenant_id,
                    "Idempotency-Key": idempotency_key,
                    "X-Orch-Action-Id": action_id,
                },
            )
        )
    )


def get_operation(operation_id: str) -> Flow[Operation]:
    """One operation and its outcome."""
    return ask(get(f"{BASE}/control/operations/{segment(operation_id)}", Operation))


class Elasticity(Group[AnyClient]):
    """`client.elasticity`."""

    set_pool_target = Method(set_pool_target)
    create_operation = Method(create_operation)
    get_operation = Method(get_operation)
