"""The server's process: takes over the launcher's descriptors, serves, and drains on SIGTERM.

The launcher starts this program confined and unprivileged, with three inherited descriptors: a
socket to the launcher, a bound socket to listen on, and a memory file with settings, secrets and
host facts. `platform.py` assembles the services.
"""

import asyncio
import gc
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # Imported objects are never freed. Collecting garbage during the imports would add a seventh to
    # their time; `main` turns the collector on again.
    gc.disable()
    # Modules that structlog imports if they are installed, for formatted terminal output and for
    # greenlets. A server uses neither, so their imports fail here.
    for of_structlog in ("rich", "greenlet"):
        sys.modules[of_structlog] = None  # type: ignore[assignment]

import structlog
import uvloop

from quiltfn.api.app import make_app
from quiltfn.api.http.budgets import Budgets
from quiltfn.api.http.connections import ConnectionLimits, Connections
from quiltfn.api.http.server import Server
from quiltfn.api.http.stall_responder import StallResponder
from quiltfn.api.lane import lane_of
from quiltfn.base.clock import SystemClock
from quiltfn.base.setting_files import BadSetting
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.memory import Memory
from quiltfn.observe import log
from quiltfn.ports import Clock, StockedSandboxes
from quiltfn.ports.fleet import NodeRemoved
from quiltfn.sandbox.channel import LauncherChannel
from quiltfn.sandbox.client import LauncherSandboxes
from quiltfn.sandbox.output_limits import OutputLimits
from quiltfn.sandbox.prewarmed import PrewarmedSandboxes
from quiltfn.server.bounds import sandbox_room
from quiltfn.server.ground import CannotServe, Node
from quiltfn.server.launch_context import Inherited, inherit
from quiltfn.server.opened_store import opened_store
from quiltfn.server.platform import Platform, open_platform
from quiltfn.server.telemetry import CannotSend
from quiltfn.store import StoreBroken

if TYPE_CHECKING:
    from quiltfn.fleet.files import NodeFile

EXIT_STORE_BROKEN, EXIT_STORE_UNAVAILABLE, EXIT_REFUSED = 74, 75, 78
CERTIFICATE_SOON_DAYS = 30


@asynccontextmanager
async def launcher_sandboxes(
    given: Inherited, clock: Clock, memory: Memory
) -> AsyncIterator[StockedSandboxes]:
    """The launcher's sandboxes, with a warm stock that begins to fill."""
    chosen = given.settings
    channel = LauncherChannel(given.channel)
    try:
        limits = OutputLimits(*chosen.output_max)
        source = LauncherSandboxes(channel, limits, sandbox_room(chosen))
        prewarmed = PrewarmedSandboxes(source, clock, chosen.prewarmed, memory)
        prewarmed.start()
        try:
            yield prewarmed
        finally:
            await prewarmed.aclose()
    finally:
        channel.close()


async def serve(given: Inherited) -> None:
    """Serve until SIGTERM, then refuse new invocations and wait for running ones."""
    chosen = given.settings
    clock = SystemClock()
    node = Node(machine=given.machine, secrets=given.secrets, fleet=given.fleet)
    sandboxes = partial(launcher_sandboxes, given, clock)
    secret, node_id = node.secret("store_password_file"), given.machine.node_id
    if given.fleet is None:
        store = opened_store(chosen, secret, node_id=node_id)
    else:
        check_certificate(given.fleet, clock.unix())
        store = opened_store(chosen, secret, node_id=node_id, fleet_id=given.fleet.fleet_id)
    async with open_platform(chosen, sandboxes, store, clock, node) as platform:
        app = make_app(platform.services)
        tls = tls_context(given)
        tune_gc()
        connections = connections_of(given, platform.services.budgets)
        lane = lane_of(platform.services, app, connections.limits)
        server = Server(app, connections, tls, lane)
        drain = asyncio.ensure_future(_drain_on_sigterm(platform, server, chosen.drain_s))
        await asyncio.sleep(0)  # sets the SIGTERM handler, before readiness is reported
        stalled_s = platform.services.journal.stalled_s
        stall_responder = StallResponder(given.listener, tls, stalled_s)
        stall_responder.start()
        try:
            fleet, responses = platform.services.fleet, platform.services.budgets.responses
            async with fleet.answered(app, responses):
                await server.serve(given.listener)
        finally:
            stall_responder.stop()
        drain.cancel()
        if platform.ended.done():  # If the node wasn't removed, the supervisor restarts the server.
            raise platform.ended.result()


def check_certificate(node: "NodeFile", now: float) -> None:
    """Raises `BadSetting` if other nodes would reject the certificate; warns before it expires."""
    left = node.check_certificate(now)
    if left < CERTIFICATE_SOON_DAYS:
        structlog.get_logger("quiltfn.server.main").warning(
            f"this node's certificate expires in {left:.0f} days: create a new file with quiltfn "
            "fleet add-node --output NEW, and restart the node"
        )


def connections_of(given: Inherited, budgets: Budgets) -> Connections:
    chosen = given.settings
    most = min(chosen.connections_max, given.machine.connections_max)
    limits = ConnectionLimits(
        most=most,
        head_max_bytes=chosen.head_max_bytes,
        head_timeout_s=chosen.head_timeout_s,
        keep_alive_s=chosen.keep_alive_s,
        write_timeout_s=chosen.write_timeout_s,
    )
    return Connections(limits, budgets.responses)


def tune_gc() -> None:
    """Make the garbage collector run rarely and skip all existing objects. An invocation creates
    hundreds of objects and no cycle, so a run after every few hundred invocations is enough.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def tls_context(given: Inherited) -> ssl.SSLContext | None:
    """The TLS context from the contents of files that only root may read. Raises `CannotServe`."""
    certificate, key = given.secrets.get("tls_cert"), given.secrets.get("tls_key")
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
    """Wait for SIGTERM, then for running invocations, until a second SIGTERM comes or the server is
    forced to stop.
    """
    asked = asyncio.Event()
    again = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, lambda: again.set() if asked.is_set() else asked.set()
    )

    def end_now(_: object) -> None:
        """End running invocations at once, since the server is forced to stop."""
        again.set()
        asked.set()

    platform.ended.add_done_callback(end_now)
    await asked.wait()
    platform.services.health.drain()
    platform.services.work.waiters.release()
    await platform.dispatcher.stop()
    waiters = [
        asyncio.ensure_future(_ended_calls(platform, server, drain_s)),
        asyncio.ensure_future(again.wait()),
    ]
    await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiters:
        waiter.cancel()
    # Ends invocations that still run as interrupted, so that the server does not wait for them.
    await platform.pools.aclose()
    platform.services.budgets.streams.end()
    server.leave()


async def _ended_calls(platform: Platform, server: Server, drain_s: float) -> None:
    """Return once no client's invocation is in progress here, or at the timeout. A node of a fleet
    forwards invocations that still arrive, and also waits until clients send no more.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            await platform.services.invoker.drain(drain_s)
            await platform.services.fleet.settled(server.quiet)


def main() -> int:
    """Run the server's process; return its exit code."""
    gc.freeze()
    gc.enable()
    log.configure()
    try:
        given = inherit(sys.argv[1:])
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(given))
    except (StoreBroken, StoreUnavailable) as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        return EXIT_STORE_BROKEN if isinstance(error, StoreBroken) else EXIT_STORE_UNAVAILABLE
    except (CannotServe, NodeRemoved, CannotSend, BadSetting) as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        return EXIT_REFUSED
    structlog.get_logger("quiltfn.server.main").info("stopped")
    return 0


if __name__ == "__main__":
    end_code = main()
    # Everything is closed and stored. Finalizing the interpreter would take a twentieth of the CPU
    # time of the server's imports and exit, and free only what the kernel frees anyway.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(end_code)
