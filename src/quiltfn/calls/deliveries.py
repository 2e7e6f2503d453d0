"""Sends completion events of asynchronous invocations to their destinations.

A delivery is in the store before it is sent, and is sent at least once: if the server is killed
after the receiver has responded and before that is stored, it sends the delivery again, with the
same id. Memory holds only the due time of each function's next delivery.
"""

import asyncio
import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import structlog
from msgspec.structs import replace

from quiltfn.base.others import Others
from quiltfn.base.store_retry import until_stored
from quiltfn.calls.after_commit import AfterCommit
from quiltfn.calls.work import Cause, Work
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.model import callback
from quiltfn.model.delivery import (
    CHAIN_MAX,
    LIFE_S,
    Delivery,
    DeliveryStatus,
    retry_due_ms,
)
from quiltfn.model.errors import (
    GET_RECORD,
    Conflict,
    FunctionNotActive,
    NotFound,
    OutcomeUnknown,
    QuiltfnError,
    ShuttingDown,
    StoreUnavailable,
    Unprocessable,
)
from quiltfn.model.invocation import Invocation, Source
from quiltfn.model.work import Destination
from quiltfn.ports import STORE_AGAIN_S, Page, TenantFunctions
from quiltfn.ports.deliveries import CallbackFailed, CallbackSender
from quiltfn.ports.work import AcceptedWork, Input
from quiltfn.store.calls.deliveries import SqlDeliveries
from quiltfn.tenants.disabled import DisabledTenants

# Maximum number of deliveries that are sent at a time: in total, per tenant, and per host or
# function, so that a slow receiver delays only its own deliveries.
AT_ONCE, OF_TENANT, OF_HOST = 32, 16, 4
# Maximum bytes of bodies being sent, in total and of one tenant; above it, no delivery starts.
BYTES_AT_ONCE, BYTES_OF_TENANT = 64 * 1024 * 1024, 32 * 1024 * 1024
# After this many functions of a tenant without free slots, the tenant's other functions are looked
# at a moment later.
LOOKED_AT, LOOK_AGAIN_S = 100, 0.05
GONE = 410
# Errors that a retry would get again, so the delivery fails at once.
FOR_GOOD = (NotFound, Unprocessable, FunctionNotActive)
USER_AGENT = "quiltfn"

_log = structlog.get_logger("quiltfn.calls.deliveries")


class Deliveries:
    """Sends deliveries when they are due (`run`), lists them, and retries one on request."""

    def __init__(
        self,
        store: SqlDeliveries,
        catalog: Catalog,
        work: Work,
        open_sender: Callable[[], CallbackSender],
        disabled: DisabledTenants,
        others: Others,
    ) -> None:
        """`open_sender`: called once, with the first callback. `disabled`: the tenants whose
        deliveries wait.
        """
        self._disabled, self._others = disabled, others
        self._store, self._catalog, self._work = store, catalog, work
        self.prune_some = store.prune_some
        self._journal, self._clock, self._open_sender = work.journal, work.clock, open_sender
        self._tracer = work.tracer
        self._sender: CallbackSender | None = None
        self._due: dict[str, tuple[str, int]] = {}  # by function: its tenant and due time
        self._arrived: set[str] = set()
        self._changed = asyncio.Event()
        self._sending: dict[asyncio.Task[None], str] = {}  # by task: the delivery's id
        self._is_unsure = False  # the store did not say whether a claim was made
        self._busy: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[str] = Counter()  # of bodies being sent, by tenant
        # Functions whose invocations have ended, each with its tenant.
        self._ended = AfterCommit[tuple[str, str]](
            self._journal, lambda ended: self._note(*ended, self._now_ms())
        )

    # Requests and triggers -------------------------------------------------------------------

    def tenant_changed(self, _tenant_id: str, _is_disabled: bool) -> None:
        """Consider the tenant's waiting deliveries, which may be allowed now."""
        self._changed.set()

    def call_ended(self, record: Invocation) -> None:
        """An invocation's record was written; the next commit stores its delivery."""
        if record.outcome is None or record.outcome.destination_id is None:
            return
        self._ended.add((record.function_id, record.tenant_id))

    async def list(
        self,
        of: Entry | TenantFunctions,
        limit: int,
        cursor: str | None,
        status: DeliveryStatus | None,
    ) -> Page[Delivery]:
        """The deliveries of functions, newest first, without their bodies."""
        await self._journal.synced()
        functions = of if isinstance(of, TenantFunctions) else of.function.id
        return await self._store.list(functions, limit, cursor, status)

    async def retry(self, entry: Entry, delivery_id: str) -> Delivery:
        """Makes a delivery due now, and lets it be retried for another day. Raises `NotFound`, and
        `Conflict` if it has succeeded, or its body is too large or was dropped for lack of room.
        """
        now_ms = self._now_ms()
        function = entry.function
        found = await self._store.retry(function.id, delivery_id, now_ms, now_ms + LIFE_S * 1000)
        if found is None:
            raise NotFound("the function has no delivery with this id")
        if found.status is DeliveryStatus.DELIVERED:
            raise Conflict("it was delivered", details={"state": found.status})
        if found.status is DeliveryStatus.FAILED:
            hint = f"{GET_RECORD.text} has the record of the call"
            details = {"state": found.status}
            raise Conflict(found.error_message or "", hint=hint, see=GET_RECORD, details=details)
        self._note(function.id, function.tenant_id, now_ms)
        return found

    async def follow_waiting(self) -> None:
        """Notes when waiting deliveries are due, whichever node created or released them."""
        for waiting in await self._store.waiting():
            known = self._due.get(waiting.function_id)
            if known is None or waiting.next_due_ms < known[1]:
                self._note(waiting.function_id, waiting.tenant_id, waiting.next_due_ms)

    async def run(self) -> None:
        """Sends due deliveries until cancelled. Deliveries that are then being sent are sent again
        after the next start.
        """
        try:
            await self._load()
            while True:
                self._changed.clear()
                try:
                    wait_s = await self._begin_due()
                except StoreUnavailable:
                    wait_s = STORE_AGAIN_S
                except Exception:  # A bug must not end the deliveries of all tenants.
                    _log.exception("deliveries could not be begun; they are tried again")
                    wait_s = STORE_AGAIN_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
        finally:
            await self._stop()

    # Deciding --------------------------------------------------------------------------------

    async def _load(self) -> None:
        for due in await until_stored(self._store.load):
            self._note(due.function_id, due.tenant_id, due.next_due_ms)

    async def _begin_due(self) -> float | None:
        """Begins due deliveries if there is room; returns the seconds until the next is due."""
        if self._is_unsure:
            await self._store.release_others(self._sending.values())
            self._is_unsure = False
        now_ms = self._now_ms()
        due: defaultdict[str, list[str]] = defaultdict(list)
        for function_id, (tenant_id, due_ms) in self._due.items():
            if due_ms <= now_ms and tenant_id not in self._disabled:
                due[tenant_id].append(function_id)
        # Tenants with the fewest deliveries under way come first, however many functions others
        # have.
        is_whole = True
        for tenant_id in sorted(due, key=lambda key: self._busy["tenant", key]):
            is_whole &= await self._begin_of(tenant_id, due[tenant_id], now_ms)
        if not is_whole:
            return LOOK_AGAIN_S
        later = [due for _, due in self._due.values() if due > now_ms]
        return max(0.0, (min(later) - self._now_ms()) / 1000) if later else None

    async def _begin_of(self, tenant_id: str, functions: Sequence[str], now_ms: int) -> bool:
        """Sends due deliveries of a tenant's functions as far as there are free slots. Returns
        False if slots are left and not all functions were looked at.
        """
        looked = 0
        for function_id in functions:
            if self._room_of(tenant_id) <= 0:
                break  # retried when a delivery in progress ends
            if looked == LOOKED_AT:
                return False
            room = self._room(function_id, tenant_id)
            if room > 0:
                await self._begin(function_id, tenant_id, room, now_ms)
            else:
                looked += 1
                # Moved to the end: next time, others come first.
                self._due[function_id] = self._due.pop(function_id)
        return True

    async def _begin(self, function_id: str, tenant_id: str, room: int, now_ms: int) -> None:
        self._arrived.discard(function_id)
        try:
            claimed = await self._store.claim(function_id, room, now_ms)
            for delivery in claimed:
                self._start(delivery)
            following = await self._store.next_due(function_id)
        except StoreUnavailable as error:
            self._is_unsure |= isinstance(error, OutcomeUnknown)
            raise
        # Put back at the end of `_due`, so that the next round begins with other functions.
        self._due.pop(function_id, None)
        if function_id in self._arrived:  # a new delivery, which `following` may not include
            self._due[function_id] = (tenant_id, now_ms)
        elif following is not None:
            self._due[function_id] = (tenant_id, following.next_due_ms)

    def _room(self, function_id: str, tenant_id: str) -> int:
        """How many more deliveries of the function may be sent now."""
        of_host = max(self._busy[key] for key in self._keys(function_id))
        return min(self._room_of(tenant_id), OF_HOST - of_host)

    def _room_of(self, tenant_id: str) -> int:
        """How many more of the tenant's deliveries may be sent now, to any host."""
        if self._bytes[tenant_id] >= BYTES_OF_TENANT or self._bytes.total() >= BYTES_AT_ONCE:
            return 0
        return min(AT_ONCE - len(self._sending), OF_TENANT - self._busy["tenant", tenant_id])

    def _keys(self, function_id: str) -> Sequence[tuple[str, str]]:
        """The counters of a delivery of the function, other than its tenant's."""
        policy = self._work.policies.policy_of(function_id)
        urls = [one.url for one in (policy.on_success, policy.on_failure) if one and one.url]
        hosts = {urlsplit(url).netloc.lower() for url in urls}
        return [("function", function_id), *(("host", host) for host in hosts)]

    def _note(self, function_id: str, tenant_id: str, due_ms: int) -> None:
        """Notes when a delivery of the function is due."""
        known = self._due.get(function_id)
        self._due[function_id] = (tenant_id, min(due_ms, known[1]) if known else due_ms)
        self._arrived.add(function_id)
        self._changed.set()

    # Sending ---------------------------------------------------------------------------------

    def _start(self, delivery: Delivery) -> None:
        keys = [("tenant", delivery.tenant_id), *self._keys(delivery.function_id)]
        self._busy.update(keys)
        self._bytes[delivery.tenant_id] += len(delivery.body)
        task = asyncio.ensure_future(self._send(delivery))
        self._sending[task] = delivery.id

        def over(task: asyncio.Task[None]) -> None:
            self._sending.pop(task, None)
            self._busy.subtract(keys)
            self._busy = +self._busy
            self._bytes[delivery.tenant_id] -= len(delivery.body)
            self._bytes = +self._bytes
            self._changed.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("a delivery was not sent", delivery=delivery.id, error=repr(error))

        task.add_done_callback(over)

    async def _send(self, delivery: Delivery) -> None:
        """Makes one attempt at a delivery, and stores its outcome."""
        started, target = self._clock.now(), self._target(delivery)
        try:
            if target is None:
                await self._others.catch_up()
                target = self._target(delivery)
            after = await self._try(delivery, target)
        # After a bug, or without free descriptors, the delivery must not stay claimed.
        except Exception:
            _log.exception("a delivery could not be sent; it is tried again", delivery=delivery.id)
            after = self._again(delivery, "the server could not send it")
        if after is None:
            return
        is_call = target is not None and target.function is not None
        if self._tracer is not None:
            self._tracer.delivery_tried(after, started, to_function=is_call)
        if is_call and after.status is DeliveryStatus.DELIVERED:
            return  # stored in the transaction that accepted the invocation
        # Retried, since the outcome is only in memory.
        await until_stored(lambda: self._store.finish(after))
        if after.status is DeliveryStatus.WAITING:
            self._note(after.function_id, after.tenant_id, after.due_at_ms)
        elif after.status is DeliveryStatus.FAILED:
            _log.warning(
                "a delivery has failed",
                function=delivery.function_id,
                delivery=delivery.id,
                reason=after.error_message,
            )

    def _target(self, delivery: Delivery) -> Destination | None:
        policy = self._work.policies.policy_of(delivery.function_id)
        target: Destination | None = getattr(policy, delivery.policy_field)
        return target

    async def _try(self, delivery: Delivery, target: Destination | None) -> Delivery | None:
        """Makes the attempt; returns the delivery afterwards. None: the server is stopping."""
        if target is None:
            return self._failed(delivery, "the policy names no destination any more")
        if target.function is not None:
            return await self._accept(delivery, target.function)
        return await self._post(delivery, target)

    async def _accept(self, delivery: Delivery, name: str) -> Delivery | None:
        """Accepts an invocation of the destination function; returns the delivery with its outcome,
        which is already stored if it was delivered. None: the server is stopping.
        """
        try:
            deep = await self._store.depth(delivery.invocation_id, CHAIN_MAX)
            if deep >= CHAIN_MAX:
                why = f"{CHAIN_MAX} calls in a row each caused the next, which is the limit"
                return self._failed(delivery, why)
            try:
                work = self._call_of(delivery, name)
            except FOR_GOOD:
                await self._others.catch_up()
                work = self._call_of(delivery, name)
            with self._work.looked_for(work):
                await self._store.accept(replace(delivery, ended_at=self._now_s()), work)
        except ShuttingDown:
            await self._store.release(delivery)
            return None
        except StoreUnavailable as error:
            return self._again(delivery, str(error))
        except NotFound:
            return self._failed(delivery, f"the tenant has no function named {name}")
        except FOR_GOOD as error:
            return self._failed(delivery, str(error))
        except QuiltfnError as error:
            return self._again(delivery, str(error))
        self._work.stored(work)
        return replace(delivery, status=DeliveryStatus.DELIVERED)

    def _call_of(self, delivery: Delivery, name: str) -> AcceptedWork:
        """The invocation of the destination function. Raises if it is refused."""
        entry = self._catalog.by_name(delivery.tenant_id, name)
        caller = f"destination of {delivery.function_id}"
        cause = Cause(
            source=Source.DESTINATION,
            parent_id=delivery.invocation_id,
            invocation_id=delivery.id,  # the same delivery makes no second invocation
        )
        traceparent = self._traceparent(delivery)
        given = Input(payload=delivery.body, caller=caller, traceparent=traceparent)
        return self._work.prepared(entry, given, cause=cause)

    def _traceparent(self, delivery: Delivery) -> str | None:
        """The traceparent that the receiver gets with this attempt."""
        return None if self._tracer is None else self._tracer.delivery_traceparent(delivery)

    async def _post(self, delivery: Delivery, target: Destination) -> Delivery:
        """Posts the delivery to a URL; returns it with its outcome."""
        assert target.url is not None
        assert target.secret is not None
        if self._sender is None:
            self._sender = self._open_sender()
        now = int(self._clock.unix())
        headers = {
            "content-type": "application/json",
            "user-agent": USER_AGENT,
            **callback.signed_headers(target.secret, delivery.id, now, delivery.body),
        }
        traceparent = self._traceparent(delivery)
        if traceparent is not None:
            headers["traceparent"] = traceparent
        try:
            status = await self._sender.post(target.url, headers, delivery.body)
        except CallbackFailed as error:
            return self._again(replace(delivery, http_status=None), str(error))
        answered = replace(delivery, http_status=status)
        if 200 <= status <= 299:
            return replace(
                answered,
                status=DeliveryStatus.DELIVERED,
                body=b"",
                error_message=None,
                ended_at=self._now_s(),
            )
        if status == GONE:
            return self._failed(answered, "the receiver answered 410: it wants no more")
        return self._again(answered, f"the receiver answered {status}")

    def _again(self, delivery: Delivery, why: str) -> Delivery:
        """Schedules a retry; fails the delivery if it would be too old by then."""
        due_ms = retry_due_ms(delivery, self._now_ms(), random.random())
        if due_ms is None:
            return self._failed(delivery, why)
        return replace(delivery, status=DeliveryStatus.WAITING, due_at_ms=due_ms, error_message=why)

    def _failed(self, delivery: Delivery, why: str) -> Delivery:
        return replace(
            delivery, status=DeliveryStatus.FAILED, error_message=why, ended_at=self._now_s()
        )

    async def _stop(self) -> None:
        await self._ended.aclose()
        tasks = [*self._sending]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        sender, self._sender = self._sender, None
        if sender is not None:
            await sender.aclose()

    def _now_ms(self) -> int:
        """Trusted time: setting the wall clock makes no delivery late or too old."""
        return int(self._clock.trusted() * 1000)

    def _now_s(self) -> int:
        return int(self._clock.unix())
