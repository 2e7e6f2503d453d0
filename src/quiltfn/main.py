"""The one room where the server is tied together: opens in order of need, closes backwards.

The launcher starts this program confined and unprivileged, with three things inherited: a socket
to the launcher, a bound socket to listen on, and a memory file with settings, secrets and what it
found out about the machine.
"""

import asyncio
import gc
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
import uvicorn
import uvloop

from quiltfn import __version__, settings
from quiltfn.access import Access
from quiltfn.admission import Admission
from quiltfn.api import errors
from quiltfn.api.app import make_app
from quiltfn.api.budgets import BodyBudget, Budgets
from quiltfn.api.connections import Connections
from quiltfn.api.flow import EVERY_ANSWER
from quiltfn.api.protocol import bounded
from quiltfn.api.route import Services
from quiltfn.api.server import Server
from quiltfn.api.stall_responder import StallResponder
from quiltfn.background import background_tasks
from quiltfn.bounds import api_limits, image_limits, tenant_limits
from quiltfn.catalog import Catalog
from quiltfn.clock import SystemClock
from quiltfn.elasticity import Elasticity
from quiltfn.health import Health, HostFacts
from quiltfn.holdings import Holdings
from quiltfn.idempotency import Idempotency
from quiltfn.images import ImageDirectory
from quiltfn.inherited import Inherited, inherit
from quiltfn.invoke import Invoker
from quiltfn.lifecycle import Lifecycle, NodeConfig
from quiltfn.model.errors import ShuttingDown, StoreUnavailable
from quiltfn.model.keepalive import KeepAlive, maker
from quiltfn.model.limits import PoolLimits
from quiltfn.model.memory import Memory
from quiltfn.model.retention import StorageLimit
from quiltfn.model.runtime import built_in
from quiltfn.model.version import HostLimits
from quiltfn.observe import log, metrics
from quiltfn.pool.local import LocalPools
from quiltfn.pool.reaper import reap
from quiltfn.ports import Clock
from quiltfn.retention import resume_clock
from quiltfn.runtimes import HostImage, Runtimes, TenantRules
from quiltfn.sandbox.channel import LauncherChannel
from quiltfn.sandbox.client import LauncherSandboxes
from quiltfn.sandbox.prewarmed import PrewarmedSandboxes
from quiltfn.store import (
    SpoolJournal,
    SqlAudit,
    SqlClockStore,
    SqlHoldings,
    SqlIdempotencyStore,
    SqliteStore,
    SqlKeys,
    SqlOperations,
    SqlRuntimes,
    StoreBroken,
)
from quiltfn.tokens import BadTokenSettings, verifier

EXIT_STORE_BROKEN, EXIT_STORE_UNAVAILABLE, EXIT_REFUSED = 74, 75, 78
UNKEPT = StoreUnavailable("this may have been done; the answer to it could not be kept")
DIED = ShuttingDown("the server ended while the first call with this key was running")


class CannotServe(Exception):
    """A sentence for the operator: the settings do not go together with what is there."""


@dataclass(frozen=True, slots=True)
class Platform:
    """The services, and the two parts of them that have to be told when they end."""

    services: Services
    pools: LocalPools
    health: Health


@asynccontextmanager
async def open_platform(given: Inherited) -> AsyncIterator[Platform]:
    """Everything between the launcher's socket and the routes."""
    clock, chosen = SystemClock(), given.settings
    async with AsyncExitStack() as stack:
        opening = SqliteStore.open(chosen.data_dir, node_id=given.machine.node_id)
        store = await stack.enter_async_context(opening)
        journal = journal_of(given, store, clock)
        await journal.start()
        stack.push_async_callback(journal.aclose)
        await resume_clock(clock, SqlClockStore(store.database))
        keys, answers = SqlKeys(store.database), answers_of(chosen, store)
        await answers.start(errors.render(DIED, "")[1])
        idempotency = Idempotency(answers, clock, errors.render(UNKEPT, "")[1])
        stack.push_async_callback(idempotency.aclose)
        access = Access(keys, clock, verifier(given.secret("jwt_secret"), given.secret("jwt_jwks")))
        await access.refresh()
        check_address(given, access)
        channel = LauncherChannel(given.channel)
        stack.callback(channel.close)
        memory = Memory(budget_mib=given.machine.memory_max_mib)
        made = prewarmed_sandboxes(given, channel, clock, memory)
        stack.push_async_callback(made.aclose)
        pools = LocalPools(made, clock, memory, keep_alive_policy(chosen), chosen.tenant_instances)
        stack.push_async_callback(pools.aclose)
        catalog = Catalog(chosen.functions_max_bytes)
        holdings = await holdings_of(given, store, clock)
        runtimes = await runtimes_of(given, store, holdings, clock)
        lifecycle = Lifecycle(catalog, store, pools, clock, node_config(given, runtimes))
        await lifecycle.restore()
        elasticity = Elasticity(lifecycle, SqlOperations(store.database), clock)
        await elasticity.restore()
        health = Health(given.machine, store, journal, chosen.data_dir, made.why_not)
        metrics.started(__version__)
        work = background_tasks(chosen, store, holdings, made, clock)
        for one in (reap(pools), access.keep_fresh(), *work):
            stack.callback(asyncio.ensure_future(one).cancel)
        yield Platform(
            Services(
                clock=clock,
                access=access,
                admission=Admission(clock, tenant_limits(chosen)),
                idempotency=idempotency,
                catalog=catalog,
                lifecycle=lifecycle,
                elasticity=elasticity,
                invoker=Invoker(pools, journal, clock, given.machine.node_id),
                pools=pools,
                warm_stock=made,
                journal=journal,
                keys=keys,
                audit=SqlAudit(store.database),
                runtimes=runtimes,
                holdings=holdings,
                health=health,
                limits=api_limits(chosen),
                budgets=Budgets(BodyBudget(chosen.bodies_max_bytes)),
            ),
            pools,
            health,
        )


def prewarmed_sandboxes(
    given: Inherited, channel: LauncherChannel, clock: Clock, memory: Memory
) -> PrewarmedSandboxes:
    """Where sandboxes come from; its warm stock is filled from now on."""
    chosen = given.settings
    source = LauncherSandboxes(channel, chosen.stdout_max_bytes + chosen.stderr_max_bytes)
    prewarmed = PrewarmedSandboxes(source, clock, chosen.prewarmed, memory)
    prewarmed.start()
    return prewarmed


def check_address(given: Inherited, access: Access) -> None:
    """Raises `CannotServe` for an address that strangers reach while nobody needs a credential."""
    chosen = given.settings
    if given.machine.transport == "cleartext" and not access.is_open:
        told = structlog.get_logger("quiltfn.main")
        told.warning("other machines reach this server and it does not encrypt: set tls_cert")
    if access.is_open and not settings.is_loopback(chosen.host):
        raise CannotServe(
            f"host {chosen.host} is no loopback address, and there is no key yet, so anybody who "
            "reaches it could run code here. Make one first: quiltfn keys create --tenant default "
            f"--data-dir {chosen.data_dir}"
        )


def node_config(given: Inherited, runtimes: Runtimes) -> NodeConfig:
    machine, chosen = given.machine, given.settings
    return NodeConfig(
        node_id=machine.node_id,
        host=HostLimits(
            memory_max_mib=machine.memory_max_mib,
            cores=machine.cores,
            timeout_max_s=chosen.timeout_max_s,
        ),
        runtimes=runtimes,
        tenant_instances=chosen.tenant_instances,
        pools=PoolLimits(
            idle_s=chosen.idle_s,
            queue_max=chosen.line_max,
            queue_wait_s=chosen.line_wait_s,
            grace_s=chosen.rollback_grace_s,
            park_s=chosen.park_s,
        ),
    )


def keep_alive_policy(chosen: settings.Settings) -> Callable[[], KeepAlive | None]:
    """Under the fixed rule each instance has its own time, whatever its function's calls do."""
    if chosen.keep_alive == "fixed":
        return lambda: None
    return maker(chosen.keep_alive, chosen.idle_s)


def answers_of(chosen: settings.Settings, store: SqliteStore) -> SqlIdempotencyStore:
    bound = StorageLimit(tenant=chosen.tenant_answers_bytes, all=chosen.keep_answers_bytes)
    return SqlIdempotencyStore(store.database, bound)


def journal_of(given: Inherited, store: SqliteStore, clock: Clock) -> SpoolJournal:
    chosen = given.settings
    is_strict = chosen.durability == "strict"
    return SpoolJournal(store.database, chosen.data_dir, clock, is_strict=is_strict)


async def holdings_of(given: Inherited, store: SqliteStore, clock: Clock) -> Holdings:
    """Who has which images, as it was."""
    chosen = given.settings
    images = ImageDirectory(chosen.data_dir / "images", clock, image_limits(chosen))
    images.start()
    holdings = Holdings(
        SqlHoldings(store.database),
        images,
        clock,
        chosen.tenant_image_bytes,
        chosen.images_bytes,
    )
    await holdings.restore()
    return holdings


async def runtimes_of(
    given: Inherited, store: SqliteStore, holdings: Holdings, clock: Clock
) -> Runtimes:
    """What runtimes' names stand for, as it was."""
    rules = TenantRules.of(given.settings.words, given.settings.tenant_runtimes)
    host = host_image(given.machine)
    runtimes = Runtimes(host, SqlRuntimes(store.database), holdings, clock, rules)
    await runtimes.restore()
    return runtimes


def host_image(machine: HostFacts) -> HostImage:
    own = built_in(machine.interpreters, machine.packages)
    return HostImage(built_in=own, packages=machine.packages, no_gvisor=machine.no_gvisor)


async def serve(given: Inherited) -> None:
    """Listens until SIGTERM, then drains: running calls end, new ones are refused."""
    chosen = given.settings
    async with open_platform(given) as platform:
        app = make_app(platform.services)
        connections = connections_of(given, platform.services.budgets)
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=bounded(chosen.head_max_bytes, chosen.head_timeout_s, app.call_at, connections),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            headers=EVERY_ANSWER,
            # A caller's own word for its address would count wrong credentials against others.
            proxy_headers=False,
            timeout_keep_alive=chosen.keep_alive_s,
            timeout_graceful_shutdown=2,
        )
        config.load()
        config.ssl = tls_context(given)
        tune_gc()
        server = Server(config, connections)
        drain = asyncio.ensure_future(_drain_on_sigterm(platform, server, chosen.drain_s))
        stalled_s = platform.services.journal.stalled_s
        stall_responder = StallResponder(given.listener, config.ssl, stalled_s)
        stall_responder.start()
        try:
            await server.serve(sockets=[given.listener])
        finally:
            stall_responder.stop()
        drain.cancel()


def connections_of(given: Inherited, budgets: Budgets) -> Connections:
    chosen = given.settings
    most = min(chosen.connections_max, given.machine.connections_max)
    return Connections(most, chosen.write_timeout_s, budgets.answers)


def tune_gc() -> None:
    """What is there by now stays; and a call makes hundreds of objects that need no collector, so
    it looks for cycles every few hundred calls instead of every few.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def tls_context(given: Inherited) -> ssl.SSLContext | None:
    """From memory, since the key's file is root's. Raises `CannotServe`."""
    certificate, key = given.secret("tls_cert"), given.secret("tls_key")
    if certificate is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    file = os.memfd_create("tls")
    try:
        os.write(file, certificate + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    except (ssl.SSLError, OSError) as error:
        raise CannotServe(f"tls_cert and tls_key cannot be used: {error}") from None
    finally:
        os.close(file)
    return context


async def _drain_on_sigterm(platform: Platform, server: Server, drain_s: float) -> None:
    """The first SIGTERM waits for running calls; a second one does not."""
    asked = asyncio.Event()
    again = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, lambda: again.set() if asked.is_set() else asked.set()
    )
    await asked.wait()
    platform.health.draining = True
    waiters = [
        asyncio.ensure_future(platform.services.invoker.drain(drain_s)),
        asyncio.ensure_future(again.wait()),
    ]
    await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiters:
        waiter.cancel()
    # Calls that are not over by now end as interrupted, so that uvicorn need not wait for them.
    await platform.pools.aclose()
    server.leave()


def main() -> int:
    """The server's process; returns its exit code."""
    log.configure()
    given = inherit(sys.argv[1:])
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(given))
    except (StoreBroken, StoreUnavailable) as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        return EXIT_STORE_BROKEN if isinstance(error, StoreBroken) else EXIT_STORE_UNAVAILABLE
    except (CannotServe, BadTokenSettings) as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        return EXIT_REFUSED
    structlog.get_logger("quiltfn.main").info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
