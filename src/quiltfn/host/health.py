"""Health: whether this server can do its work, and if not, why."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from quiltfn.host import programs as host_programs
from quiltfn.host.checks import (
    Finding,
    Level,
    database,
    disk,
    fine,
    images,
    of_the_host,
    warn,
)
from quiltfn.model.errors import StoreUnavailable
from quiltfn.store.calls.journal import SpoolJournal
from quiltfn.store.functions.functions import SqlStore

STORE_WITHIN_S = 3.0
DISK_MIN_BYTES = 64 * 1024 * 1024


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The launcher's findings at start: facts, and protections read back from the kernel.

    `no_gvisor`: why sandboxes with gVisor are not possible; empty if they are. `runsc`: the path of
    the program that creates them. `store`: the URL of the database; empty: SQLite in the data
    directory. `connections_max`: the number of connections that the limit on open files allows.
    """

    node_id: str
    cgroup_mode: str
    oci_runtime: str
    protections: dict[str, str]
    transport: str
    memory_max_mib: int
    cores: int
    interpreters: dict[str, str]
    packages: str
    no_gvisor: str = "it has none"
    runsc: str = ""
    store: str = ""
    is_store_verified: bool = True
    connections_max: int = 100_000


class Reasons(msgspec.Struct, frozen=True, kw_only=True):
    """The sources of `Health`. `no_sandbox`: why no sandbox can be created now; None: one can.
    `refuses`: why invocations are refused for a while; empty: they are accepted. `not_seen`: on a
    node of a fleet, why others may consider it lost; None: they don't. `missing_images`: on a
    standalone server, the images with missing files; those of a node may be on other nodes.
    """

    no_sandbox: Callable[[], Awaitable[str | None]]
    refuses: Callable[[], str] = str
    not_seen: Callable[[], str | None] | None = None
    missing_images: Callable[[], Awaitable[Sequence[str]]] | None = None


class Health:
    """Checks everything that an invocation needs."""

    def __init__(
        self,
        machine: HostFacts,
        store: SqlStore,
        journal: SpoolJournal,
        data_dir: Path,
        reasons: Reasons,
        started_at: int,
    ) -> None:
        """`started_at`: when the server started, in Unix seconds."""
        self.machine, self.reasons = machine, reasons
        self._store, self._journal, self._data_dir = store, journal, data_dir
        self.started_at, self.draining = started_at, False

    def drain(self) -> None:
        """Stops routing of new invocations to a server that is ending."""
        self.draining = True

    @property
    def durability(self) -> str:
        """strict: an invocation's record is synced before the response; relaxed: soon after it."""
        return "strict" if self._journal.is_strict else "relaxed"

    @property
    def takes_calls(self) -> bool:
        """Whether new invocations should come here: the server is neither ending nor drained.
        Ignores whether the database is reachable: otherwise all nodes would drop out at once,
        although they can run invocations on existing instances.
        """
        return not (self.draining or self.reasons.refuses())

    async def report(self) -> dict[str, Any]:
        """Each part with `ok` and a reason; `ready` is true if every part is ok."""
        parts = {
            "store": await self._store_part(),
            "records": _part(*self._store.condition()),
            "disk": self._disk_part(),
            "oci_runtime": await self._sandbox_part(),
            # Always ok: the server ends with the launcher.
            "launcher": _part(True, f"cgroup {self.machine.cgroup_mode}"),
            "accepting_calls": self._accepting_part(),
            **self._membership_parts(),
        }
        return self._report(parts, self.machine.protections)

    def unverified_report(self, why: str) -> dict[str, Any]:
        """The report for any caller while credentials cannot be checked: the reason, without
        details reserved for authenticated callers. Queries no other part.
        """
        parts = {
            "credentials": _part(False, why),
            "accepting_calls": self._accepting_part(),
            **self._membership_parts(),
        }
        return self._report(parts, {})

    def _report(
        self, parts: dict[str, dict[str, Any]], protections: dict[str, str]
    ) -> dict[str, Any]:
        ready = all(part["ok"] for part in parts.values())
        return {
            "status": "ok" if ready else "unavailable",
            "ready": ready,
            "transport": self.machine.transport,
            "durability": self.durability,
            "checks": parts,
            "protections": protections,
        }

    async def findings(self) -> list[Finding]:
        """The findings of `quiltfn doctor` that this process can make without root."""
        found = await asyncio.to_thread(self._findings)
        if self.reasons.missing_images is not None:
            found.append(images(await self.reasons.missing_images()))
        return found

    def _findings(self) -> list[Finding]:
        machine, data_dir = self.machine, self._data_dir
        found = [
            fine("cgroups", f"control groups: {machine.cgroup_mode}"),
            host_programs.crun(machine.oci_runtime),
            disk(data_dir),
            *of_the_host(Path("/"), machine.cgroup_mode),
        ]
        found.append(host_programs.egress())
        gvisor = host_programs.gvisor(machine.runsc)
        if gvisor.level is Level.OK and machine.no_gvisor:
            gvisor = fine("runsc", f"isolation: gvisor is refused: {machine.no_gvisor}")
        found.append(gvisor)
        if machine.store:
            found.append(database(machine.store, machine.is_store_verified))
        if machine.transport == "cleartext":
            advice = "set tls_cert and tls_key, or put a proxy with TLS in front of the server"
            sentence = "other machines can reach this server, but connections are not encrypted"
            found.append(warn("transport", sentence, advice))
        else:
            found.append(fine("transport", f"requests come by {machine.transport}"))
        return found

    async def _store_part(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(STORE_WITHIN_S):
                await self._store.ping()
                await self._journal.synced()
        except TimeoutError:
            return _part(False, f"the store did not complete a write within {STORE_WITHIN_S:g} s")
        except StoreUnavailable as error:
            return _part(False, str(error))
        return _part(True, "takes writes")

    async def _sandbox_part(self) -> dict[str, Any]:
        why = await self.reasons.no_sandbox()
        return _part(why is None, why or self.machine.oci_runtime)

    def _accepting_part(self) -> dict[str, Any]:
        if self.draining:
            return _part(False, "draining")
        refuses = self.reasons.refuses()
        return _part(not refuses, refuses or "yes")

    def _membership_parts(self) -> dict[str, dict[str, Any]]:
        if self.reasons.not_seen is None:
            return {}
        why = self.reasons.not_seen()
        return {"membership": _part(why is None, why or "the other nodes see it")}

    def _disk_part(self) -> dict[str, Any]:
        try:
            free = shutil.disk_usage(self._data_dir).free
        except OSError as error:
            return _part(False, f"its free space cannot be read: {error.strerror}")
        return _part(free >= DISK_MIN_BYTES, f"{free // (1024 * 1024)} MiB free")


def _part(ok: bool, reason: str) -> dict[str, Any]:
    return {"ok": ok, "reason": reason}
