"""Sets scaling targets over the API: directly, or as an operation that is executed once."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from quiltfn.base.ids import new_id
from quiltfn.base.store_retry import until_stored
from quiltfn.base.task_group import TaskGroup
from quiltfn.functions.catalog import Entry
from quiltfn.functions.lifecycle import Lifecycle
from quiltfn.model.errors import NotFound, OutcomeUnknown, QuiltfnError, StoreUnavailable
from quiltfn.model.operation import FAILED, Operation, interrupted
from quiltfn.ports import STORE_AGAIN_S, Clock
from quiltfn.store.tenants.operations import SqlOperations

POOL_TARGET = "elasticity.function_pool_target"
APPLIED, REPLAY = "succeeded", "ELASTICITY_IDEMPOTENCY_REPLAY"


class Elasticity:
    """Changes scaling targets without creating a version."""

    def __init__(self, lifecycle: Lifecycle, operations: SqlOperations, clock: Clock) -> None:
        self._lifecycle, self._operations, self._clock = lifecycle, operations, clock
        self.prune = operations.prune
        self._telling = TaskGroup()

    async def restore(self) -> None:
        """At start: marks as failed the operations that the last server did not finish."""
        ended = [interrupted(one) for one in await self._operations.interrupted()]
        if ended:  # avoids an empty transaction at each start
            await self._operations.finish_interrupted(ended)

    async def aclose(self) -> None:
        """Stops retrying writes; `restore` handles unfinished operations at the next start."""
        await self._telling.aclose()

    async def target(self, entry: Entry, min_instances: int, max_instances: int) -> Entry:
        """Sets new targets at once. Raises `Unprocessable`."""
        return await self._lifecycle.set_scaling(entry, min_instances, max_instances)

    async def controlled(
        self, entry: Entry, targets: tuple[int, int], key: str, action_id: str
    ) -> tuple[Operation, bool]:
        """Runs an operation. Returns it, and whether the request is a repetition without effect.

        Raises as `target`, and `StoreUnavailable`: then the operation was not begun, or its result
        is stored later.
        """
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
        try:
            earlier = await self._operations.add(operation)
        except OutcomeUnknown:  # nothing was done, so remove the operation in case it was stored
            self._tell_later(partial(self._operations.forget, operation.operation_id))
            raise
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
            await self._finish(ended)
            raise
        ended = msgspec.structs.replace(operation, status=APPLIED)
        await self._finish(ended)
        return ended, False

    async def _finish(self, ended: Operation) -> None:
        tell = partial(self._operations.finish, ended)
        try:
            await tell()
        except StoreUnavailable:
            self._tell_later(tell)
            raise

    def _tell_later(self, tell: Callable[[], Awaitable[None]]) -> None:
        """Retries a write until it is stored: no operation may seem to run for ever."""

        async def later() -> None:
            await asyncio.sleep(STORE_AGAIN_S)
            await until_stored(tell)

        self._telling.spawn(later())

    async def operation(self, tenant_id: str, operation_id: str) -> Operation:
        """The tenant's operation with this id. Raises `NotFound`."""
        found = await self._operations.get(tenant_id, operation_id)
        if found is None:
            raise NotFound("there is no operation with this id")
        return found
