"""Whether this server can do its work, and if not, why."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import Journal, Store

DISK_MIN_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the launcher found out at start: facts, and protections read back from the kernel.

    `no_gvisor`: why a sandbox cannot be gVisor's; empty where it can. `connections_max`: what the
    files that may be open allow.
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
    connections_max: int = 100_000


class Health:
    """Looks at everything a call needs."""

    def __init__(self, machine: Machine, store: Store, journal: Journal, data_dir: Path) -> None:
        self.machine = machine
        self._store, self._journal, self._data_dir = store, journal, data_dir
        self.draining = False

    @property
    def durability(self) -> str:
        """strict: a call's record is synced before its answer; relaxed: a moment later."""
        return "strict" if self._journal.is_strict else "relaxed"

    async def report(self) -> dict[str, Any]:
        """Each part with ok and a reason; `ready` is true where every part is ok."""
        parts = {
            "store": await self._store_part(),
            "records": _part(*self._store.condition()),
            "disk": self._disk_part(),
            # The launcher proved these with a real sandbox before the server was started, and its
            # end is the server's end.
            "oci_runtime": _part(True, self.machine.oci_runtime),
            "launcher": _part(True, f"cgroup {self.machine.cgroup_mode}"),
            "accepting_calls": _part(not self.draining, "draining" if self.draining else "yes"),
        }
        ready = all(part["ok"] for part in parts.values())
        return {
            "status": "ok" if ready else "unavailable",
            "ready": ready,
            "transport": self.machine.transport,
            "durability": self.durability,
            "checks": parts,
            "protections": self.machine.protections,
        }

    async def _store_part(self) -> dict[str, Any]:
        try:
            await self._store.ping()
            await self._journal.synced()
        except StoreUnavailable as error:
            return _part(False, str(error))
        return _part(True, "takes writes")

    def _disk_part(self) -> dict[str, Any]:
        free = shutil.disk_usage(self._data_dir).free
        return _part(free >= DISK_MIN_BYTES, f"{free // (1024 * 1024)} MiB free")


def _part(ok: bool, reason: str) -> dict[str, Any]:
    return {"ok": ok, "reason": reason}
