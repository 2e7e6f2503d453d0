"""The resources below all parts of a server, opened before the parts are created and closed after
them: the store, the clock, records and responses, credentials, sandboxes, and the other servers on
the same store.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING

import msgspec
import structlog

from quiltfn.api.http.errors import error_body
from quiltfn.api.http.idempotency import NAMES_RECORD, Idempotency
from quiltfn.base.clock import ResumableClock
from quiltfn.base.others import Others
from quiltfn.host.health import HostFacts
from quiltfn.model.errors import ShuttingDown, StoreUnavailable
from quiltfn.model.memory import Memory
from quiltfn.model.retention import StorageLimit
from quiltfn.ports import StockedSandboxes
from quiltfn.ports.fleet import NodeRemoved
from quiltfn.server.retention import continue_ids, resume_clock
from quiltfn.server.telemetry import Telemetry, open_telemetry
from quiltfn.settings import Settings, is_loopback
from quiltfn.store import SpoolJournal, SqlClockStore, SqlIdempotencyStore, SqlKeys, SqlStore
from quiltfn.store.calls.inputs import Cipher
from quiltfn.store.database.database import Database
from quiltfn.tenants.access import Access, Verifier
from quiltfn.tenants.disabled import DisabledTenants

if TYPE_CHECKING:
    from quiltfn.fleet.files import NodeFile
    from quiltfn.fleet.follower import Follower
    from quiltfn.fleet.membership import Membership

UNKEPT = StoreUnavailable("this may have been done; its response could not be stored")
DIED = ShuttingDown(
    "the server ended while the first request with this key was running", hint=NAMES_RECORD
)

# Opens the sandboxes of this machine, which count in the given memory budget.
OpenSandboxes = Callable[[Memory], AbstractAsyncContextManager[StockedSandboxes]]


class CannotServe(Exception):
    """The settings do not fit the machine or the data directory: a sentence for the operator."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a server's machine. `secrets`: by the setting that names the secret's file;
    `fleet`: its configuration as a node of a fleet, None on a standalone server.
    """

    machine: HostFacts
    secrets: Mapping[str, bytes] = msgspec.field(default_factory=dict)
    fleet: "NodeFile | None" = None

    def secret(self, name: str) -> bytes | None:
        return self.secrets.get(name)


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """`follower`: None if no other server uses the store; `membership`: None if the server is not a
    node of a fleet.
    """

    settings: Settings
    node: Node
    clock: ResumableClock
    telemetry: Telemetry
    store: SqlStore
    follower: "Follower | None"
    membership: "Membership | None"
    others: Others
    clock_store: SqlClockStore
    journal: SpoolJournal
    idempotency: Idempotency
    disabled: DisabledTenants
    keys: SqlKeys
    access: Access
    memory: Memory
    stock: StockedSandboxes

    @property
    def database(self) -> Database:
        return self.store.database


async def open_ground(
    settings: Settings,
    sandboxes: OpenSandboxes,
    store: AbstractAsyncContextManager[SqlStore],
    clock: ResumableClock,
    node: Node,
    stack: AsyncExitStack,
) -> Ground:
    """Open the resources; `stack` closes them. Raises `CannotServe` and the errors of the parts."""
    telemetry = await stack.enter_async_context(
        open_telemetry(settings, node.machine, clock, node.secret("otlp_headers_file"))
    )
    opened = await stack.enter_async_context(store)
    follower, membership, others = None, None, Others()
    if not opened.database.boot.is_alone:
        from quiltfn.fleet.join import join_others  # noqa: PLC0415 — unused if standalone

        try:
            joining = join_others(settings, opened, clock, node.fleet, DIED)
            follower, membership, others = await stack.enter_async_context(joining)
        except NodeRemoved as error:
            raise CannotServe(str(error)) from None
    clock_store = SqlClockStore(opened.database, is_shared=others.are_possible)
    # Before the journal starts, which treats the previous server's work by trusted time.
    await resume_clock(clock, clock_store)
    is_strict = settings.durability == "strict"
    journal = SpoolJournal(opened.database, settings.data_dir, clock, is_strict=is_strict)
    await journal.start()
    stack.push_async_callback(journal.aclose)
    await continue_ids(clock, clock_store)
    idempotency = await _started_idempotency(settings, opened, clock, stack)
    disabled = DisabledTenants() if follower is None else DisabledTenants(follower.lag_s)
    keys, memory = SqlKeys(opened.database), Memory(budget_mib=node.machine.memory_max_mib)
    return Ground(
        settings=settings,
        node=node,
        clock=clock,
        telemetry=telemetry,
        store=opened,
        follower=follower,
        membership=membership,
        others=others,
        clock_store=clock_store,
        journal=journal,
        idempotency=idempotency,
        disabled=disabled,
        keys=keys,
        access=await _started_access(settings, keys, clock, node, disabled),
        memory=memory,
        stock=await stack.enter_async_context(sandboxes(memory)),
    )


async def _started_idempotency(
    chosen: Settings, store: SqlStore, clock: ResumableClock, stack: AsyncExitStack
) -> Idempotency:
    """The stored responses for repeated requests. Needs the journal, which has their
    invocations.
    """
    bound = StorageLimit(tenant=chosen.tenant_answers_bytes, all=chosen.keep_answers_bytes)
    answers = SqlIdempotencyStore(store.database, bound)
    await answers.start(error_body(DIED))
    idempotency = Idempotency(answers, clock, error_body(UNKEPT))
    stack.push_async_callback(idempotency.aclose)
    return idempotency


async def _started_access(
    chosen: Settings, keys: SqlKeys, clock: ResumableClock, node: Node, disabled: DisabledTenants
) -> Access:
    """The credentials, loaded from the store. Raises `CannotServe` if other machines can reach the
    address and no key is required.
    """
    access = Access(
        keys,
        clock,
        disabled=disabled,
        stale_after_s=math.inf if node.fleet is None else chosen.fleet_fence_s,
        verify=token_verifier(node),
    )
    await access.refresh()
    log = structlog.get_logger("quiltfn.server.main")
    if not node.machine.is_store_verified:
        log.warning(
            "the connection does not verify PostgreSQL, which an attacker on the network could "
            "impersonate: see quiltfn doctor"
        )
    if node.machine.transport == "cleartext" and not access.is_open:
        log.warning(
            "other machines can reach this server, but connections are not encrypted: set tls_cert"
        )
    if access.is_open and not is_loopback(chosen.host):
        raise CannotServe(
            f"host {chosen.host} is not a loopback address, and there is no key yet, so anybody "
            "who can reach it could run code here. First create a key: quiltfn keys create "
            "--tenant default "
            f"--data-dir {chosen.data_dir}"
        )
    return access


def token_verifier(node: Node) -> Verifier | None:
    """The verifier of tokens; None if tokens are not accepted. Raises `CannotServe`."""
    secret, key_set = node.secret("jwt_secret"), node.secret("jwt_jwks")
    if secret is None and key_set is None:
        return None
    from quiltfn.tenants.tokens import BadTokenSettings, verifier  # noqa: PLC0415 - long to import

    try:
        return verifier(secret, key_set)
    except BadTokenSettings as error:
        raise CannotServe(str(error)) from None


def record_cipher(node: Node) -> Cipher | None:
    """The cipher for stored inputs; None if there is no key. Raises `CannotServe` for a bad key."""
    secret = node.secret("record_key_file")
    if secret is None:
        return None
    from quiltfn.store.calls.record_key import RecordKey  # noqa: PLC0415 - long to import

    try:
        return RecordKey(secret)
    except ValueError as error:
        raise CannotServe(f"record_key_file cannot be used: {error}") from None
