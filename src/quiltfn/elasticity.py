"""Scaling targets set over the API: directly, or as an operation that is executed once."""

import msgspec

from quiltfn.catalog import Entry
from quiltfn.ids import new_id
from quiltfn.lifecycle import Lifecycle
from quiltfn.model.errors import NotFound, QuiltfnError
from quiltfn.model.operation import FAILED, Operation, interrupted
from quiltfn.ports import Clock, Operations

POOL_TARGET = "elasticity.function_pool_target"
APPLIED, REPLAY = "succeeded", "ELASTICITY_IDEMPOTENCY_REPLAY"


class Elasticity:
    """Changes scaling targets without making a version."""

    def __init__(self, lifecycle: Lifecycle, operations: Operations, clock: Clock) -> None:
        self._lifecycle, self._operations, self._clock = lifecycle, operations, clock

    async def restore(self) -> None:
        """At start: marks the operations that the last server did not finish as failed."""
        ended = [interrupted(one) for one in await self._operations.interrupted()]
        if ended:  # or each start would make a transaction for nothing
            await self._operations.finish_interrupted(ended)

    async def target(self, entry: Entry, min_instances: int, max_instances: int) -> Entry:
        """New targets, at once. Raises `Unprocessable`."""
        return await self._lifecycle.set_scaling(entry, min_instances, max_instances)

    async def controlled(
        self, entry: Entry, targets: tuple[int, int], key: str, action_id: str
    ) -> tuple[Operation, bool]:
        """The operation, and whether it is a repetition: then nothing was done this time."""
        operation = Operation(
            operation_id=new_id(),
            tenant_id=entry.function.tenant_id,
            operation_type=POOL_TARGET,
            idempotency_key=key,
            action_id=action_id,
            status="running",
            reason_code=None,
            reason_message=None,
            retryable=False,
            created_at=int(self._clock.unix()),
        )
        earlier = await self._operations.add(operation)
        if earlier is not None:
            return earlier, True
        try:
            await self._lifecycle.set_scaling(entry, *targets)
        except QuiltfnError as error:
            ended = msgspec.structs.replace(
                operation,
                status=FAILED,
                reason_code=error.code,
                reason_message=str(error),
                retryable=error.blame == "platform",
            )
            await self._operations.finish(ended)
            raise
        ended = msgspec.structs.replace(operation, status=APPLIED)
        await self._operations.finish(ended)
        return ended, False

    async def operation(self, tenant_id: str, operation_id: str) -> Operation:
        """Raises `NotFound`."""
        found = await self._operations.get(tenant_id, operation_id)
        if found is None:
            raise NotFound("there is no operation with this id")
        return found
