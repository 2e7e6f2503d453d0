"""What health reports if something that a server needs has disappeared."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from promises import promise
from quiltfn.host import programs as host_programs
from quiltfn.host.checks import Level
from quiltfn.host.health import Health, HostFacts, Reasons
from quiltfn.model.errors import StoreUnavailable

pytestmark = promise("A63", "N64")


async def test_what_is_away_makes_no_server_leave_the_load_balancer(tmp_path: Path) -> None:
    health = made(tmp_path)
    report = await health.report()
    assert (report["ready"], health.takes_calls) == (False, True)
    refusals = [""]
    health.reasons = Reasons(no_sandbox=health.reasons.no_sandbox, refuses=refusals.pop)
    assert health.takes_calls
    refusals.append("drained")
    assert not health.takes_calls
    refusals.append("")
    health.drain()
    assert not health.takes_calls


@promise("D19")
async def test_a_removed_data_directory_is_told(tmp_path: Path) -> None:
    there = await made(tmp_path).report()
    gone = await made(tmp_path / "gone").report()
    assert cast("str", there["checks"]["disk"]["reason"]).endswith("MiB free")
    assert not gone["ready"]
    assert not gone["checks"]["disk"]["ok"]
    assert "No such file" in gone["checks"]["disk"]["reason"]
    assert gone["checks"]["store"]["reason"] == "the data directory was removed"


def made(data_dir: Path) -> Health:
    """Health of a server whose store does not respond."""

    async def ping() -> None:
        raise StoreUnavailable("the data directory was removed")

    async def none() -> None:
        return None

    machine = HostFacts(
        node_id="node-1",
        cgroup_mode="v2",
        oci_runtime=str(data_dir / "crun"),
        runsc=str(data_dir / "runsc"),
        protections={},
        transport="cleartext",
        memory_max_mib=1024,
        cores=1,
        interpreters={},
        packages="",
    )
    store: Any = SimpleNamespace(ping=ping, condition=lambda: (True, "whole"))
    journal: Any = SimpleNamespace(is_strict=False)
    return Health(machine, store, journal, data_dir, Reasons(no_sandbox=none), 0)


async def test_a_running_server_warns_of_old_programs_as_the_doctor_does(tmp_path: Path) -> None:
    """Health repeats the warnings of `quiltfn doctor` about crun and runsc after the start."""
    for name, said in {"crun": "crun version 1.21", "runsc": "runsc version 20240729.0"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho {said}\n")
        (tmp_path / name).chmod(0o755)
    found = {one.name: one for one in await made(tmp_path).findings()}
    assert found["crun"] == host_programs.crun(str(tmp_path / "crun"))
    assert found["runsc"] == host_programs.gvisor(str(tmp_path / "runsc"))
    assert {found[name].level for name in ("crun", "runsc")} == {Level.WARN}
    assert found["egress"] == host_programs.egress()
