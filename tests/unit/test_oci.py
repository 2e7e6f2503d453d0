"""Checks of config.json: it isolates the sandbox in the same way, whatever the limits are."""

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promises import promise
from quiltfn.launcher import oci
from quiltfn.launcher.cgroups import SandboxLimits as Limits
from quiltfn.launcher.preflight import PROBE
from quiltfn.launcher.state import SERVER_UIDS, UID_BASE, UIDS_PER_SANDBOX

pytestmark = promise("F10", "F28")

Config = dict[str, Any]
Rule = Callable[..., None]
RULES: list[Rule] = []
CGROUP = "/quiltfn/0badcafe/0123"
NETNS = "/proc/self/fd/17"

some_limits = st.builds(
    Limits,
    memory_mib=st.integers(1, 4 << 20),
    cpu_percent=st.floats(1, 51_200),
    pids=st.integers(1, 4096),
    tmp_mib=st.integers(1, 10_240),
    file_mib=st.integers(1, 10_240),
    open_files=st.integers(1, 65_536),
)
some_hosts = st.builds(
    oci.Host,
    machine=st.sampled_from(sorted(oci.ARCHITECTURES)),
    root=st.just("/run/quiltfn/servers/0badcafe/root"),
    binds=st.dictionaries(
        st.sampled_from(["/usr", "/lib", "/etc/ssl", "/etc/alternatives"]), st.just("/usr")
    ),
    oom_score_min=st.integers(-1000, 1000),
)
some_wanted = st.builds(
    oci.SandboxSpec,
    limits=some_limits,
    app=st.none() | st.just(Path("/run/quiltfn/servers/0badcafe/images/0123")),
    writable_paths=st.sampled_from([(), ("/data",), ("/data", "/var/cache")]),
    binds=st.sampled_from([{}, {"/etc/resolv.conf": "/run/quiltfn/resolv.conf"}]),
    egress=st.booleans(),
    netns=st.sampled_from(["", NETNS]),
)
some_bases = st.integers(1, 3839).map(lambda n: UID_BASE + n * UIDS_PER_SANDBOX)


def rule(check: Rule) -> Rule:
    RULES.append(check)
    return check


def mounts(it: Config) -> dict[str, Config]:
    return {one["destination"]: one for one in it["mounts"]}


# Process -------------------------------------------------------------------------------------


FIVE = ["CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_ADMIN"]


@rule
def the_process_has_five_capabilities_and_nothing_of_the_environment(it: Config, **_: Any) -> None:
    process, capabilities = it["process"], it["process"]["capabilities"]
    assert {name: sorted(some) for name, some in capabilities.items()} == {
        **dict.fromkeys(("bounding", "effective", "permitted"), FIVE),
        "inheritable": [],
        "ambient": [],
    }
    names = ("terminal", "noNewPrivileges", "user", "env", "cwd")
    assert [process[name] for name in names] == [False, True, {"uid": 0, "gid": 0}, [], "/"]


@rule
def the_guest_alone_is_started_and_stands_above_the_launcher(
    it: Config, host: oci.Host, limits: Limits
) -> None:
    program, tmp, shm, score, forking, shown, *_writable = it["process"]["args"]
    assert shown == "limits=v2"
    assert (program, tmp, shm) == (oci.GUEST, oci.tmp_options(limits), oci.SHM_OPTIONS)
    assert forking == f"shell={host.shell}"
    guest = it["process"]["oomScoreAdj"]
    assert 500 <= int(score) <= 1000
    assert int(score) > guest or guest == 1000
    assert guest > host.oom_score_min or guest == 1000
    assert 0 <= guest <= 1000


@rule
def resource_limits(it: Config, limits: Limits, **_: Any) -> None:
    """There is no limit of pending signals: it would apply to all sandboxes together."""
    found = {one["type"]: (one["soft"], one["hard"]) for one in it["process"]["rlimits"]}
    assert found == {
        "RLIMIT_NOFILE": (limits.open_files, limits.open_files),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_MEMLOCK": (65_536, 65_536),
        "RLIMIT_MSGQUEUE": (0, 0),
        "RLIMIT_FSIZE": (limits.file_mib << 20, limits.file_mib << 20),
    }


# Namespaces ----------------------------------------------------------------------------------


@rule
def every_namespace_is_new_or_a_network_made_for_it(it: Config, **_: Any) -> None:
    kinds = ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"]
    assert sorted(one["type"] for one in it["linux"]["namespaces"]) == kinds
    entered = [one for one in it["linux"]["namespaces"] if "path" in one]
    assert entered in ([], [{"type": "network", "path": NETNS}])


@rule
def users_are_mapped_to_a_range_of_their_own(it: Config, **_: Any) -> None:
    (users,), (groups,) = it["linux"]["uidMappings"], it["linux"]["gidMappings"]
    assert users == groups
    assert users["containerID"] == 0
    assert users["size"] == 65_536
    assert (users["hostID"] - UID_BASE) % 65_536 == 0
    assert SERVER_UIDS.stop <= users["hostID"] <= 0x7FFF_FFFF - 65_535


# Mounts --------------------------------------------------------------------------------------


@rule
def the_root_is_read_only(it: Config, host: oci.Host, **_: Any) -> None:
    assert it["root"] == {"path": host.root, "readonly": True}


@rule
def no_sysfs_and_no_control_groups(it: Config, **_: Any) -> None:
    kinds = {one["type"] for one in it["mounts"]}
    assert kinds <= {"proc", "tmpfs", "devpts", "bind"}
    assert not [point for point in mounts(it) if point.startswith("/sys")]


@rule
def everything_is_nosuid_and_all_but_dev_is_nodev(it: Config, **_: Any) -> None:
    assert all("nosuid" in one["options"] for one in it["mounts"])
    with_nodes = [p for p, one in mounts(it).items() if "nodev" not in one["options"]]
    assert with_nodes == ["/dev", "/dev/pts"]


@rule
def file_systems_of_the_kernel_are_new_small_and_hide_other_users(it: Config, **_: Any) -> None:
    for point, kind, options in (
        ("/proc", "proc", "nosuid noexec nodev hidepid=2 gid=0"),
        ("/dev", "tmpfs", "nosuid noexec mode=755 size=64k nr_inodes=64"),
        ("/dev/pts", "devpts", "newinstance max=32 nosuid noexec"),
    ):
        assert mounts(it)[point]["type"] == kind
        assert set(options.split()) <= set(mounts(it)[point]["options"])
    assert mounts(it)["/dev"]["source"] == "tmpfs"
    order = [one["destination"] for one in it["mounts"]]
    assert order.index("/dev") < order.index("/dev/shm")


@rule
def what_is_writable_has_a_size(it: Config, **_: Any) -> None:
    for point, mount in mounts(it).items():
        if mount["type"] == "tmpfs":
            names = {option.split("=")[0] for option in mount["options"]}
            assert {"size", "nr_inodes", "mode"} <= names, point
    assert "noexec" in mounts(it)["/dev/shm"]["options"]


@rule
def binds_are_read_only(it: Config, host: oci.Host, **_: Any) -> None:
    binds = {point: one for point, one in mounts(it).items() if one["type"] == "bind"}
    assert set(binds) - set(host.binds) <= {"/app", "/etc/hosts", "/etc/resolv.conf"}, (
        "what was asked for"
    )
    assert set(binds) >= set(host.binds)
    assert all({"rbind", "ro", "nosuid", "nodev"} <= set(one["options"]) for one in binds.values())


@rule
def only_bounded_file_systems_in_memory_are_writable(it: Config, limits: Limits, **_: Any) -> None:
    places = ["/tmp", *it["process"]["args"][6:]]
    for point in places:
        assert mounts(it)[point]["type"] == "tmpfs", point
        options = set(mounts(it)[point]["options"])
        bounds = {f"size={limits.tmp_mib}m", f"nr_inodes={256 * limits.tmp_mib}"}
        assert {"nosuid", "nodev", "mode=1777", *bounds} <= options, point
    writable = {p for p, one in mounts(it).items() if "ro" not in one["options"]}
    assert writable == {"/proc", "/dev", "/dev/pts", "/dev/shm", *places}


@rule
def of_the_host_nothing_is_shown_but_what_was_named(it: Config, host: oci.Host, **_: Any) -> None:
    shown = {one["source"] for one in it["mounts"] if one["type"] == "bind"}
    ours = {source for source in shown if source.startswith("/run/quiltfn/")}
    assert shown - ours <= set(host.binds.values())


@rule
def every_place_is_a_normal_path(it: Config, **_: Any) -> None:
    for point in [*mounts(it), *it["linux"]["maskedPaths"], *it["linux"]["readonlyPaths"]]:
        assert str(PurePosixPath(point)) == point
        assert point.startswith("/")
        assert ".." not in point
    assert len(mounts(it)) == len(it["mounts"]), "no place twice"


@rule
def secrets_of_the_kernel_are_masked(it: Config, **_: Any) -> None:
    names = "acpi asound cmdline interrupts kcore keys latency_stats pressure sched_debug scsi"
    assert {f"/proc/{one}" for one in [*names.split(), "timer_list"]} <= set(
        it["linux"]["maskedPaths"]
    )


@rule
def switches_of_the_kernel_and_the_host_s_device_nodes_are_read_only(it: Config, **_: Any) -> None:
    """The device nodes can still be written to; only their times can't be set."""
    switches = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
    devices = [f"/dev/{one}" for one in ("full", "null", "random", "tty", "urandom", "zero")]
    assert sorted(it["linux"]["readonlyPaths"]) == sorted(switches + devices)


# Resources -----------------------------------------------------------------------------------


@rule
def its_group_limits_memory_processes_and_processor_time_and_denies_devices(
    it: Config, limits: Limits, **_: Any
) -> None:
    resources = dict(it["linux"]["resources"])
    cpu, size = resources.pop("cpu"), limits.memory_mib << 20
    assert resources == {
        "memory": {"limit": size, "swap": size},
        "pids": {"limit": limits.pids},
        "devices": [{"allow": False, "access": "rwm"}],
    }
    assert limits.pids > 0, "the runtime takes 0 for no limit"
    assert cpu["quota"] >= 1_000
    assert 1_000 <= cpu["period"] <= 1_000_000
    assert cpu["quota"] / cpu["period"] == pytest.approx(limits.cpu_percent / 100, rel=0.001)
    assert "devices" not in it["linux"]


@rule
def the_group_is_where_we_say_and_its_name_tells_nothing_of_the_host(it: Config, **_: Any) -> None:
    assert (it["linux"]["cgroupsPath"], it["hostname"]) == (CGROUP, "0123")


@rule
def no_kernel_setting_is_written_but_of_a_network_of_its_own(it: Config, **_: Any) -> None:
    assert not {"timeOffsets", "personality", "mountLabel"} & set(it["linux"])
    (network,) = (one for one in it["linux"]["namespaces"] if one["type"] == "network")
    assert set(it["linux"]["sysctl"]) == (set() if "path" in network else set(oci.NETWORK))


@rule
def nothing_else_is_asked_of_the_runtime(it: Config, **_: Any) -> None:
    """There are no hooks, no LSM label that a host may lack, and no annotation that enables
    anything.
    """
    names = "ociVersion hostname annotations root process mounts linux"
    assert set(it) == set(names.split())
    assert it["annotations"] == {"run.oci.seccomp_fail_unknown_syscall": "1"}
    assert not {"apparmorProfile", "selinuxLabel"} & set(it["process"])
    assert not {"hooks", "intelRdt", "rootfsPropagation"} & set(it["linux"])
    json.dumps(it, allow_nan=False)


# System calls --------------------------------------------------------------------------------


@rule
def what_is_not_listed_is_not_permitted(it: Config, **_: Any) -> None:
    seccomp = it["linux"]["seccomp"]
    assert seccomp["defaultAction"] == "SCMP_ACT_ERRNO"
    assert seccomp["defaultErrnoRet"] == 1
    assert {one["action"] for one in seccomp["syscalls"]} == {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"}


@rule
def one_architecture_only(it: Config, host: oci.Host, **_: Any) -> None:
    """On x86_64, i386 and x32 must not be allowed: their system calls have other numbers."""
    assert it["linux"]["seccomp"]["architectures"] == [oci.ARCHITECTURES[host.machine]]


@pytest.mark.parametrize("check", RULES, ids=lambda check: check.__name__)
def test_rule(check: Rule) -> None:
    @settings(max_examples=25, deadline=None)
    @given(some_hosts, some_wanted, some_bases)
    def holds(host: oci.Host, spec: oci.SandboxSpec, base: int) -> None:
        made = oci.config(host, spec, uid_base=base, cgroup=CGROUP, hostname="0123")
        check(made, host=host, limits=spec.limits)

    holds()


@pytest.mark.parametrize("netns", ["", NETNS])
def test_the_network_is_the_one_that_was_made_for_it(netns: str) -> None:
    """A sandbox for which no network was made gets a new one that has only loopback."""
    spec = oci.SandboxSpec(limits=PROBE, netns=netns)
    host = oci.Host(machine="x86_64", root="/root")
    made = oci.config(host, spec, uid_base=UID_BASE + 65_536, cgroup=CGROUP, hostname="0123")
    (network,) = [one for one in made["linux"]["namespaces"] if one["type"] == "network"]
    assert network.get("path", "") == netns


def test_there_are_rules() -> None:
    assert len(RULES) >= 20
    assert len({check.__name__ for check in RULES}) == len(RULES)


@pytest.mark.parametrize("isolation", [oci.CRUN, oci.GVISOR])
def test_no_shell_of_a_base_image_gets_the_guests_privileges(isolation: str) -> None:
    host = oci.Host(machine="x86_64", root="/root", output_max=(1, 2))
    for base in (None, Path("/base")):
        spec = oci.SandboxSpec(
            limits=PROBE, base=base, writable_paths=("/data",), isolation=isolation
        )
        made = oci.config(host, spec, uid_base=UID_BASE, cgroup="/x", hostname="x")
        args = made["process"]["args"]
        forks = base is None and isolation == oci.CRUN
        assert any(one.startswith("shell=") for one in args) == forks
        assert args[-1] == "/data"


def test_a_hostname_is_no_number() -> None:
    assert oci.hostname_of("767082744908" + "0" * 20) == "sandbox-767082744908"
