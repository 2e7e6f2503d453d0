"""The one room where the server is tied together: opens in order of need, closes backwards.

The launcher starts this program confined and unprivileged, with three things inherited: a socket
to the launcher, a bound socket to listen on, and what it found out about the machine.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn
import uvloop

from quiltfn.api.app import make_app
from quiltfn.api.routes import House
from quiltfn.catalog import Catalog
from quiltfn.health import Health, Machine
from quiltfn.invoke import Invoker
from quiltfn.lifecycle import Lifecycle, Place
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.version import HostLimits
from quiltfn.observe import log
from quiltfn.pool.local import LocalPools
from quiltfn.pool.reaper import reap
from quiltfn.sandbox.channel import LauncherChannel
from quiltfn.sandbox.client import LauncherSandboxes
from quiltfn.store import SpoolJournal, SqliteStore, StoreBroken

EXIT_STORE_BROKEN = 74


class SystemClock:
    """`ports.Clock` by the kernel."""

    def now(self) -> float:
        return time.monotonic()

    def unix(self) -> float:
        return time.time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What the launcher gives: two sockets, the machine's facts, and the settings."""

    channel: socket.socket
    listener: socket.socket
    machine: Machine
    data_dir: Path
    idle_s: float
    drain_s: float


@asynccontextmanager
async def house(given: Inherited) -> AsyncIterator[tuple[House, LocalPools]]:
    """Everything between the launcher's socket and the routes, and the pools, to end them early."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(SqliteStore.open(given.data_dir))
        journal = SpoolJournal(store.database, given.data_dir, clock)
        await journal.start()
        stack.push_async_callback(journal.aclose)
        channel = LauncherChannel(given.channel)
        stack.callback(channel.close)
        pools = LocalPools(LauncherSandboxes(channel), clock)
        stack.push_async_callback(pools.aclose)
        catalog = Catalog()
        place = Place(
            node_id=given.machine.node_id,
            host=HostLimits(memory_max_mib=given.machine.memory_max_mib, cores=given.machine.cores),
            idle_s=given.idle_s,
        )
        lifecycle = Lifecycle(catalog, store, pools, clock, place)
        await lifecycle.restore()
        reaper = asyncio.ensure_future(reap(pools))
        stack.callback(reaper.cancel)
        tied = House(
            catalog=catalog,
            lifecycle=lifecycle,
            invoker=Invoker(pools, journal, clock, given.machine.node_id),
            pools=pools,
            journal=journal,
            health=Health(given.machine, store, journal, given.data_dir),
        )
        yield tied, pools


async def serve(given: Inherited) -> None:
    """Listens until SIGTERM, then drains: running calls end, new ones are refused."""
    async with house(given) as (tied, pools):
        config = uvicorn.Config(
            make_app(tied),
            loop="uvloop",
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        server = Server(config)
        drain = asyncio.ensure_future(_drain_on_sigterm(tied, pools, server, given.drain_s))
        await server.serve(sockets=[given.listener])
        drain.cancel()


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: draining is decided here."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"listening on http://{shown}:{port}", flush=True)


async def _drain_on_sigterm(tied: House, pools: LocalPools, server: Server, drain_s: float) -> None:
    """The first SIGTERM waits for running calls; a second one does not."""
    asked = asyncio.Event()
    again = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, lambda: again.set() if asked.is_set() else asked.set()
    )
    await asked.wait()
    tied.health.draining = True
    waiters = [
        asyncio.ensure_future(tied.invoker.drain(drain_s)),
        asyncio.ensure_future(again.wait()),
    ]
    await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiters:
        waiter.cancel()
    # Calls that are not over by now end as interrupted, so that uvicorn need not wait for them.
    await pools.aclose()
    server.should_exit = True


def main() -> int:
    """The server's process; returns its exit code."""
    it = argparse.ArgumentParser(prog="quiltfn.main")
    for name in ("--channel", "--listener"):
        it.add_argument(name, type=int, required=True)
    for name in ("--facts", "--data-dir", "--node-id"):
        it.add_argument(name, required=True)
    for name in ("--idle-s", "--drain-s"):
        it.add_argument(name, type=float, required=True)
    arguments = it.parse_args()
    facts = json.loads(arguments.facts)
    log.configure()
    given = Inherited(
        channel=socket.socket(fileno=arguments.channel),
        listener=socket.socket(fileno=arguments.listener),
        machine=Machine(
            node_id=arguments.node_id,
            cgroup_mode=facts["cgroup_mode"],
            oci_runtime=facts["crun"],
            protections=facts["protections"],
            memory_max_mib=facts["memory_max_mib"],
            cores=facts["cores"],
        ),
        data_dir=Path(arguments.data_dir),
        idle_s=arguments.idle_s,
        drain_s=arguments.drain_s,
    )
    for inherited in (given.channel, given.listener):
        inherited.set_inheritable(False)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(given))
    except (StoreBroken, StoreUnavailable) as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        return EXIT_STORE_BROKEN
    structlog.get_logger("quiltfn.main").info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
