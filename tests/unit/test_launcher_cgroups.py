"""Limits in the kernel's units, the layout that fits a host, and trees of control groups."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from promises import promise
from quiltfn.launcher import cgroups
from quiltfn.launcher.cgroups import V1, V2, CgroupsUnusable, Limits
from quiltfn.launcher.oci import SandboxSpec
from quiltfn.launcher.preflight import PROBE
from quiltfn.launcher.sandboxes import Created, NotCreated, Programs, Sandboxes

PERCENT = st.floats(1, 100 * 512, allow_nan=False)
MIB = 1024 * 1024
LIMITS = Limits(memory_mib=64, cpu_percent=50.0)


@given(PERCENT)
@example(1)
@example(1.0000001)
@example(100 / 3)
@example(100)
def test_a_share_of_processor_as_the_kernel_takes_it(percent: float) -> None:
    quota, period = Limits(memory_mib=1, cpu_percent=percent).cpu_quota_and_period_us()
    assert type(quota) is type(period) is int
    assert quota >= 1_000, "the kernel refuses less than a millisecond"
    assert period == cgroups.CPU_PERIOD_US
    assert quota / period == pytest.approx(percent / 100, rel=0.001)


@given(st.floats(0.1, 1, exclude_max=True))
def test_small_shares_stretch_the_period(percent: float) -> None:
    quota, period = Limits(memory_mib=1, cpu_percent=percent).cpu_quota_and_period_us()
    assert quota == 1_000
    assert period >= cgroups.CPU_PERIOD_US
    assert quota / period == pytest.approx(percent / 100, rel=0.001)


# Choice of the layout ------------------------------------------------------------------------


def line(point: str, kind: str, options: str) -> str:
    return f"31 23 0:28 / {point} rw,relatime shared:9 - {kind} {kind} {options}\n"


ROOT = "23 1 8:1 / / rw - ext4 /dev/vda rw\n"
TMPFS = line("/sys/fs/cgroup", "tmpfs", "rw,mode=755")
EACH = [line(f"/sys/fs/cgroup/{n}", "cgroup", f"rw,{n}") for n in cgroups.V1_CONTROLLERS]
V1_ONLY = ROOT + TMPFS + "".join(EACH)
UNIFIED = line("/sys/fs/cgroup/unified", "cgroup2", "rw,nsdelegate")
V2_ONLY = ROOT + line("/sys/fs/cgroup", "cgroup2", "rw,nsdelegate")
TOGETHER = TMPFS + line(
    "/sys/fs/cgroup/all", "cgroup", "rw,cpu,cpuacct,memory,pids,freezer,devices"
)


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def say(text: str, own: str = "0::/\n") -> None:
        table = tmp_path / "mountinfo"
        table.write_text(text)
        (tmp_path / "cgroup").write_text(own)
        paths = {
            "/proc/self/mountinfo": table,
            "/proc/self/cgroup": tmp_path / "cgroup",
        }
        monkeypatch.setattr(cgroups, "Path", lambda path: paths.get(path) or Path(path))

    return say


@pytest.mark.parametrize(
    ("table", "mode"),
    [
        (V1_ONLY, "v1"),
        (V1_ONLY + UNIFIED, "hybrid"),
        (UNIFIED + V1_ONLY, "hybrid"),
        (TOGETHER, "v1"),
        (V2_ONLY, "v2"),
    ],
)
def test_the_seam_that_fits_the_host(mounts, table: str, mode: str) -> None:
    mounts(table)
    found = cgroups.detect()
    assert found.mode == mode
    assert isinstance(found, V2 if mode == "v2" else V1)
    assert found.path("server", "sandbox") == "/quiltfn/server/sandbox"


BOTH = line("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
REST = "".join(one for one in EACH if ",cpu\n" not in one)
APART = line("/sys/fs/cgroup/cpuacct", "cgroup", "rw,cpuacct")


@pytest.mark.parametrize(
    ("table", "view"),
    [
        (V2_ONLY, ["v2"]),
        (V1_ONLY + UNIFIED, ["cpu", "memory", "pids"]),
        (V1_ONLY + APART, ["cpu", "cpuacct", "memory", "pids"]),
        (REST + TMPFS + BOTH, ["cpu,cpuacct", "memory", "pids"]),
    ],
)
def test_what_a_sandbox_is_shown_of_its_groups(mounts, table: str, view: list[str]) -> None:
    """Controllers of the same hierarchy are shown together, since the kernel takes all of them or
    none. Other mount options of a hierarchy are not controllers.
    """
    mounts(table)
    assert sorted(cgroups.detect().view().split(":")) == view


@pytest.mark.parametrize("gone", cgroups.V1_CONTROLLERS)
def test_a_missing_controller_is_named(mounts, gone: str) -> None:
    mounts("".join(one for one in EACH if f",{gone}\n" not in one) + TMPFS + UNIFIED)
    with pytest.raises(CgroupsUnusable, match=rf"missing: {gone}\)"):
        cgroups.detect()
    mounts(ROOT)
    with pytest.raises(CgroupsUnusable, match="cpu, devices, freezer, memory, pids"):
        cgroups.detect()


SERVICE = "/system.slice/quiltfn.service"


@pytest.mark.parametrize("mark", ["trusted.delegate", "user.delegate"])
@pytest.mark.parametrize(
    ("own", "delegated", "base"),
    [
        ("/", [], ""),
        (SERVICE, [SERVICE], SERVICE),
        (f"{SERVICE}/supervisor", [SERVICE], SERVICE),
        ("/system.slice/cron.service", [], ""),
        ("/user.slice/session-1.scope", [], ""),
        ("/user.slice/user-0.slice/user@0.service/app.slice/x.service", [], ""),
        (
            "/user.slice/user-0.slice/user@0.service/a/b",
            ["/user.slice/user-0.slice/user@0.service"],
            "",
        ),
    ],
)
def test_in_a_service_that_delegates_v2_groups_stay_below_it(
    mounts, monkeypatch: pytest.MonkeyPatch, own: str, delegated: list[str], base: str, mark: str
) -> None:
    def getxattr(path: Path, name: str) -> bytes:
        if name == mark and str(path).removeprefix(str(cgroups.MOUNT)) in delegated:
            return b"1"
        raise OSError("no such attribute")

    monkeypatch.setattr(cgroups.os, "getxattr", getxattr)  # type: ignore[attr-defined]
    mounts(V2_ONLY, f"0::{own}\n")
    assert cgroups.detect().path("a", "b") == f"{base}/quiltfn/a/b"


@pytest.fixture
def unified(mounts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A v2 tree of ordinary directories. The group of server `s` exists."""
    mounts(V2_ONLY)
    top = tmp_path / "tree"
    (top / "quiltfn" / "s").mkdir(parents=True)
    monkeypatch.setattr(cgroups, "MOUNT", top)
    return top


@pytest.fixture
def v2_group(unified: Path) -> Path:
    """The group of sandbox `one`."""
    group = unified / "quiltfn" / "s" / "one"
    group.mkdir()
    return group


@pytest.fixture
def tops(tmp_path: Path) -> dict[str, Path]:
    """The hierarchies of v1 as ordinary directories; each has the group of sandbox `one`."""
    found = {name: tmp_path / name for name in cgroups.V1_CONTROLLERS}
    for top in found.values():
        (top / "quiltfn" / "s" / "one").mkdir(parents=True)
    return found


@pytest.fixture
def v1(tops: dict[str, Path]) -> dict[str, Path]:
    """The groups of sandbox `one`, by their controllers."""
    return {name: top / "quiltfn" / "s" / "one" for name, top in tops.items()}


@pytest.mark.parametrize("below", ["", "system.slice/quiltfn.service", "a.slice/b.slice/q.service"])
def test_v2_finds_a_dead_servers_groups_wherever_it_ran(unified: Path, below: str) -> None:
    (unified / below / "quiltfn" / "dead" / "box").mkdir(parents=True)
    (unified / "quiltfn" / "other" / "box").mkdir(parents=True)
    groups = V2()
    assert groups.sandboxes("dead") == {"box"}
    assert groups.sandboxes("nobody") == set()
    groups.remove("dead", "box")
    groups.remove_server("dead")
    assert not (unified / below / "quiltfn" / "dead").exists()
    assert groups.sandboxes("other") == {"box"}


def test_v2_says_where_controllers_are_not_handed_down(unified: Path) -> None:
    for group in (unified, unified / "quiltfn"):
        (group / "cgroup.controllers").write_text("cpu memory pids")
    (unified / "quiltfn" / "cgroup.subtree_control").mkdir()  # this directory can't be written to
    with pytest.raises(CgroupsUnusable, match=r"does not hand controllers down from .*quiltfn"):
        V2().prepare("s")


def test_v2_puts_a_process_of_ours_into_a_group_with_limits(unified: Path) -> None:
    V2().enter("s", "0123-egress-proxy", LIMITS, pids=1)
    group = unified / "quiltfn" / "s" / "0123-egress-proxy"
    written = {file.name: file.read_text() for file in group.iterdir()}
    assert written == {
        "memory.max": str(64 * MIB),
        "cpu.max": "50000 100000",
        "pids.max": "1",
        "cgroup.procs": "0",
    }


def test_v1_puts_a_process_of_ours_into_a_group_of_every_controller(tops: dict[str, Path]) -> None:
    V1(tops, hybrid=True).enter("s", "two", LIMITS, pids=1, devices=("c 1:3 rw",))
    for name, wanted in {
        "memory/memory.limit_in_bytes": str(64 * MIB),
        "memory/memory.kmem.tcp.limit_in_bytes": str(16 * MIB),
        "cpu/cpu.cfs_quota_us": "50000",
        "pids/pids.max": "1",
        "devices/devices.deny": "a",
        "devices/devices.allow": "c 1:3 rw",
    }.items():
        controller, file = name.split("/")
        assert (tops[controller] / "quiltfn" / "s" / "two" / file).read_text() == wanted
    for top in tops.values():
        assert (top / "quiltfn" / "s" / "two" / "cgroup.procs").read_text() == "0"


def test_v1_has_the_server_in_the_freezer_alone(tmp_path: Path, tops: dict[str, Path]) -> None:
    groups = V1(tops, hybrid=True)
    with pytest.raises(FileNotFoundError):  # only the kernel would create cgroup.procs
        groups.enter_alone("s")
    group = tops["freezer"] / "quiltfn" / "s" / "server-process"
    group.rmdir()
    assert not list(tmp_path.rglob("server-process"))
    group.mkdir()
    assert groups.sandboxes("s") == {"one"}, "it is no sandbox"
    assert groups.remove("s", cgroups.OF_SERVER)
    assert not group.exists()


def test_v1_kills_server_processes(tops: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    group = tops["freezer"] / "quiltfn" / "s" / "server-process"
    group.mkdir()
    (group / "cgroup.procs").write_text("77\n78\n")
    seen = []
    state = group / "freezer.state"
    monkeypatch.setattr(cgroups.os, "kill", lambda pid, _: seen.append((pid, state.read_text())))  # type: ignore[attr-defined]
    V1(tops, hybrid=False).kill("s", cgroups.OF_SERVER)
    assert seen == [(77, "FROZEN"), (78, "FROZEN")]
    assert state.read_text() == "THAWED"


@pytest.mark.parametrize("own", ["", "user.slice/session-1.scope", "a.slice/q.service/supervisor"])
def test_v2_has_the_server_below_the_group_of_its_launcher(
    mounts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str
) -> None:
    top = tmp_path / "tree"
    monkeypatch.setattr(cgroups, "MOUNT", top)
    mounts(V2_ONLY, f"0::/{own}\n")
    group = top / own / "quiltfn-server-s"
    group.mkdir(parents=True)
    (top / "quiltfn" / "s" / "box").mkdir(parents=True)
    groups = V2()
    assert groups.sandboxes("s") == {"box"}
    groups.kill("s", cgroups.OF_SERVER)
    assert (group / "cgroup.kill").read_text() == "1"
    (group / "cgroup.kill").unlink()
    # The next server finds the group, although it runs elsewhere.
    mounts(V2_ONLY, "0::/elsewhere\n")
    assert V2().remove("s", cgroups.OF_SERVER)
    assert not group.exists()
    assert V2().remove("s", cgroups.OF_SERVER), "it is gone already"


def test_v2_changes_the_limits_of_a_sandbox_that_is_there(v2_group: Path) -> None:
    for name in ("memory.max", "cpu.max"):
        (v2_group / name).write_text("")
    limits = Limits(memory_mib=512, cpu_percent=150)
    V2().limit("s", "one", limits)
    assert (v2_group / "memory.max").read_text() == str(512 * MIB)
    assert (v2_group / "cpu.max").read_text() == "150000 100000"
    with pytest.raises(FileNotFoundError):  # no group is created for an unknown sandbox
        V2().limit("s", "other", limits)


@pytest.mark.parametrize("swap", [True, False])
def test_v1_changes_sandbox_limits(tops: dict[str, Path], v1: dict[str, Path], swap: bool) -> None:
    sockets, with_swap = "memory.kmem.tcp.limit_in_bytes", "memory.memsw.limit_in_bytes"
    for name in ("memory.limit_in_bytes", *([with_swap] if swap else [])):
        (v1["memory"] / name).write_text("")
    for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"):
        (v1["cpu"] / name).write_text("")
    limits = Limits(memory_mib=512, cpu_percent=50)
    with pytest.raises(FileNotFoundError, match=sockets):  # this limit must be set
        V1(tops, hybrid=True).limit("s", "one", limits)
    (v1["memory"] / sockets).write_text("")
    V1(tops, hybrid=True).limit("s", "one", limits)
    assert (v1["memory"] / "memory.limit_in_bytes").read_text() == str(512 * MIB)
    assert not swap or (v1["memory"] / with_swap).read_text() == str(512 * MIB)
    assert (v1["memory"] / sockets).read_text() == str(128 * MIB)
    assert (v1["cpu"] / "cpu.cfs_quota_us").read_text() == "50000"


@pytest.mark.parametrize("apart", [True, False])
def test_v1_counts_processor_time_where_the_host_does(mounts, tmp_path: Path, apart: bool) -> None:
    """`cpuacct` is mounted with `cpu`, or as a separate tree; then sandboxes are members of that
    tree, too.
    """
    own = line("/sys/fs/cgroup/cpuacct", "cgroup", "rw,cpuacct") if apart else ""
    together = [one.replace("rw,cpu\n", "rw,cpu,cpuacct\n") for one in EACH]
    mounts(ROOT + TMPFS + "".join(EACH if apart else together) + own)
    found = cgroups.detect()
    assert isinstance(found, V1)
    names = set(cgroups.V1_CONTROLLERS) | ({"cpuacct"} if apart else set())
    assert set(found._mounts) == names
    found = V1({name: tmp_path / name for name in names}, hybrid=True)
    group = tmp_path / ("cpuacct" if apart else "cpu") / "quiltfn" / "s" / "one"
    group.mkdir(parents=True)
    (group / "cpuacct.usage").write_text("1234567890\n")
    assert found.cpu_us("s", "one") == 1_234_567
    with pytest.raises(FileNotFoundError):
        found.cpu_us("s", "other")


def test_v2_counts_processor_time(v2_group: Path) -> None:
    (v2_group / "cpu.stat").write_text(
        "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\n"
    )
    assert V2().cpu_us("s", "one") == 1_234_567
    with pytest.raises(FileNotFoundError):
        V2().cpu_us("s", "other")


# Killing -------------------------------------------------------------------------------------


def test_v1_ends_the_quota_of_the_killed(
    tops: dict[str, Path], v1: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (v1["freezer"] / "cgroup.procs").write_text("77")
    quota = v1["cpu"] / "cpu.cfs_quota_us"
    quota.write_text("10000")
    seen = []
    monkeypatch.setattr(cgroups.os, "kill", lambda pid, _: seen.append((pid, quota.read_text())))  # type: ignore[attr-defined]
    V1(tops, hybrid=True).kill("s", "one")
    assert seen == [(77, "10000")], "whoever is alive has the quota"
    assert quota.read_text().startswith("-1")
    assert (v1["freezer"] / "freezer.state").read_text() == "THAWED"


def test_v2_ends_the_quota_of_what_it_kills(v2_group: Path) -> None:
    (v2_group / "cpu.max").write_text("")
    V2().kill("s", "one")
    assert (v2_group / "cgroup.kill").read_text() == "1"
    assert (v2_group / "cpu.max").read_text() == "max"


def test_a_group_that_is_gone_is_killed_without_an_error_and_all_have_one_parent(
    unified: Path, tops: dict[str, Path]
) -> None:
    for groups in (V2(), V1(tops, hybrid=True)):
        groups.kill("s", "gone")
    assert V1(tops, hybrid=True).parent("pids") == tops["pids"] / "quiltfn"
    assert V2().parent("pids") == unified / "quiltfn"


# Trees ---------------------------------------------------------------------------------------


def test_v1_knows_a_sandbox_from_any_of_its_hierarchies(tmp_path: Path) -> None:
    tops = {name: tmp_path / name for name in ("memory", "pids")}
    (tops["memory"] / "quiltfn" / "s" / "one" / "deeper").mkdir(parents=True)
    (tops["pids"] / "quiltfn" / "s" / "two").mkdir(parents=True)
    (tops["pids"] / "quiltfn" / "other" / "three").mkdir(parents=True)
    groups = V1(tops, hybrid=False)
    assert groups.sandboxes("s") == {"one", "two"}
    assert groups.sandboxes("nobody") == set()
    assert groups.remove("s", "one")
    assert groups.remove("s", "never there")
    assert groups.sandboxes("s") == {"two"}
    groups.remove_server("s")
    assert groups.sandboxes("s") == set()
    assert groups.sandboxes("other") == {"three"}
    assert not (tops["memory"] / "quiltfn").exists()


@pytest.mark.parametrize("stays", ["memory", "pids"])
def test_v1_reports_lasting_groups(tops: dict[str, Path], v1: dict[str, Path], stays: str) -> None:
    (v1[stays] / "a process").touch()
    assert not V1(tops, hybrid=False).remove("s", "one")


def test_a_lasting_group_is_awaited_once(
    tops: dict[str, Path], v1: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (v1["memory"] / "a process").touch()
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    V1({"memory": tops["memory"]}, hybrid=False).remove_server("s")
    assert sum(waits) < 3, "seconds, of a launcher that ends"


@promise("F32")
def test_uids_are_given_back_when_every_process_is_gone(tmp_path: Path) -> None:
    returned: list[int] = []
    state: Any = SimpleNamespace(
        id="s",
        bundles=tmp_path / "missing",
        crun_root=tmp_path,
        roots=tmp_path,
        take_uids=lambda: 7,
        give_back_uids=returned.append,
    )
    is_gone, killed = [True], []
    cgroups: Any = SimpleNamespace(
        path=lambda *_: "",
        remove=lambda *_: is_gone[0],
        kill=lambda *_: killed.append(1),
        cpu_us=lambda *_: 5,
    )
    nothing: Any = None
    children: Any = SimpleNamespace(reap=lambda: None)
    egress: Any = SimpleNamespace(check_timeouts=lambda _: None)
    programs = Programs(crun="", gvisor=nothing)
    sandboxes = Sandboxes(state, cgroups, nothing, programs, children, egress)
    answers: list[Created | NotCreated] = []
    spec = SandboxSpec(limits=PROBE)
    sandboxes.create(spec, answers.append)
    assert [type(one) for one in answers] == [NotCreated]
    assert returned == [7]

    is_gone[0] = False
    sandboxes.create(spec, answers.append)
    now = time.monotonic()
    sandboxes.check(now + 0.1)
    assert len(answers) == 1, "it is waited for a moment"
    sandboxes.check(now + 5)
    assert [type(one) for one in answers] == [NotCreated, NotCreated], "and not for ever"
    for later in range(10, 100, 10):
        sandboxes.check(now + later)
    assert returned == [7], "nobody gets the uids meanwhile"
    assert killed, "what is in the group is killed again"
    is_gone[0] = True
    sandboxes.check(now + 200)
    assert (returned, len(answers)) == ([7, 7], 2)
