"""The list of allowed system calls for every architecture, with their conditions."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promises import promise
from quiltfn.launcher import oci

pytestmark = promise("F15")

Config = dict[str, Any]
NEW_NAMESPACES = 0x7E02_0000
NEW_TIME = 0x80
FORBIDDEN = """
    _sysctl acct add_key bpf chroot clock_adjtime clock_settime create_module
    delete_module fanotify_init fanotify_mark finit_module fsconfig fsmount fsopen fspick
    get_kernel_syms init_module inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
    io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit io_uring_enter
    io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl
    lookup_dcookie memfd_secret migrate_pages modify_ldt mount_setattr move_mount move_pages
    name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd
    pivot_root process_madvise process_mrelease process_vm_readv process_vm_writev ptrace
    query_module quotactl quotactl_fd reboot request_key seccomp set_mempolicy_home_node
    setdomainname sethostname setns settimeofday statmount listmount stime swapoff swapon sync
    syncfs syslog umount uselib userfaultfd ustat vhangup vm86 vm86old
"""
NEEDED = "read write execve futex mmap openat pipe2 wait4 exit_group mount umount2"


@pytest.fixture(params=sorted(oci.ARCHITECTURES))
def rules(request: pytest.FixtureRequest) -> list[Config]:
    return oci.seccomp(request.param)["syscalls"]


def of(rules: list[Config], name: str) -> list[Config]:
    return [one for one in rules if name in one["names"]]


@pytest.mark.parametrize("name", FORBIDDEN.split())
def test_a_call_that_no_sandbox_may_make(rules: list[Config], name: str) -> None:
    assert of(rules, name) == []


@pytest.mark.parametrize(
    ("name", "flags"), [("clone", NEW_NAMESPACES), ("unshare", NEW_NAMESPACES | NEW_TIME)]
)
def test_new_namespaces_are_masked_out(rules: list[Config], name: str, flags: int) -> None:
    (only,) = of(rules, name)
    assert only["action"] == "SCMP_ACT_ALLOW"
    (condition,) = only["args"]
    wanted = {"index": 0, "value": flags, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    assert condition == wanted


@pytest.mark.parametrize("name", ["clone3", "openat2", "cachestat", "vmsplice"])
def test_a_call_that_does_not_exist(rules: list[Config], name: str) -> None:
    (only,) = of(rules, name)
    assert (only["action"], only["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert "args" not in only


def test_socket_families(rules: list[Config]) -> None:
    found = [one for one in of(rules, "socket") if one["action"] == "SCMP_ACT_ALLOW"]
    families = {one["args"][0]["value"] for one in found}
    assert families == {1, 2, 10}, "unix, inet, inet6"
    assert all(one["args"][0]["op"] == "SCMP_CMP_EQ" for one in found)
    (pair,) = of(rules, "socketpair")
    assert pair["args"] == [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]


def test_netlink_is_refused_as_a_family_that_is_not_there(rules: list[Config]) -> None:
    (only,) = (one for one in of(rules, "socket") if one["args"][0]["value"] == 16)
    assert (only["action"], only["errnoRet"]) == ("SCMP_ACT_ERRNO", 22)
    assert only["args"] == [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}]


@pytest.mark.parametrize("family", [2, 10])
def test_of_internet_sockets_tcp_and_udp_alone(rules: list[Config], family: int) -> None:
    """If a handler could request SCTP, the host would load its module for it, if it has one."""
    found = [one["args"] for one in of(rules, "socket") if one["args"][0]["value"] == family]
    for _, kind, protocol in found:
        assert (kind["index"], kind["op"], kind["value"]) == (1, "SCMP_CMP_MASKED_EQ", 15)
        assert (protocol["index"], protocol["op"]) == (2, "SCMP_CMP_EQ")
    allowed = sorted((kind["valueTwo"], protocol["value"]) for _, kind, protocol in found)
    assert allowed == [(1, 0), (1, 6), (2, 0), (2, 17)]


def test_personality_may_only_be_the_usual_one(rules: list[Config]) -> None:
    values = sorted(one["args"][0]["value"] for one in of(rules, "personality"))
    assert values == [0, 0xFFFF_FFFF]


def test_no_name_is_allowed_twice_in_different_ways(rules: list[Config]) -> None:
    plain = {name for one in rules if "args" not in one for name in one["names"]}
    conditional = {name for one in rules if "args" in one for name in one["names"]}
    assert not plain & conditional
    # From two conditions on one argument, a runtime creates two rules, each of which would allow
    # the call.
    for rule in rules:
        indices = [condition["index"] for condition in rule.get("args", [])]
        assert len(indices) == len(set(indices)), rule


def test_what_programs_need_is_there(rules: list[Config]) -> None:
    for name in NEEDED.split():
        assert of(rules, name), name


def passes(rules: list[Config], name: str, arguments: dict[int, int]) -> bool:
    """Whether the filter allows a system call with these arguments; the others are 0."""

    def holds(condition: Config) -> bool:
        value = arguments.get(condition["index"], 0)
        if condition["op"] == "SCMP_CMP_MASKED_EQ":
            return value & condition["value"] == condition["valueTwo"]
        assert condition["op"] == "SCMP_CMP_EQ"
        return value == condition["value"]

    allowed = [one for one in of(rules, name) if one["action"] == "SCMP_ACT_ALLOW"]
    return any(all(map(holds, one.get("args", []))) for one in allowed)


SOCKET, IP, TCP, UDP, IPV6 = 1, 0, 6, 17, 41
# Columns: name, the arguments before the checked one, values that pass, values that do not.
CONDITIONS = [
    ("prctl", [], [1, 15, 21, 38, 41, 47, 61, 63], [22, 62, 64, 65, 67, 68, 0x53564D41]),
    (
        "fcntl",
        [0],
        [0, 1, 2, 3, 4, 6, 7, 8, 9, 11, 15, 37, 1030, 1031, 1033],
        [10, 1024, 1026, 1036],
    ),
    ("preadv2", [0, 0, 0, 0, 0], [0, 2, 4, 0x10, 0x36], [1, 8, 9, 0x18, 0x40, 0x80]),
    ("pwritev2", [0, 0, 0, 0, 0], [0, 2, 4, 0x10], [1, 8, 0x80]),
    ("fadvise64", [0, 0, 0], [0, 1, 2, 3, 5], [4, 6, 7]),
    ("madvise", [0, 0], [0, 3, 4, 8, 14, 15, 16, 18, 22, 23, 25], [12, 20, 21, 100, 101]),
    ("mmap", [0, 0, 3], [0x22, 0x1, 0x4022], [0x40022, 0x40000 | 21 << 26]),
    ("memfd_create", [0], [0, 1, 2, 3, 8], [4, 5, 21 << 26 | 4]),
    ("shmget", [0, 0], [0, 0o1600, 0o3600], [0o4000, 0o5600]),
    ("unshare", [], [0, 0x200, 0x400], [0x80, 0x20000, 0x10000000]),
    *((name, [0, 0], [0, 2, 0x40, 0x4000], [1, 0x41]) for name in ("sendmsg", "recvmsg")),
    *((name, [0, 0, 0], [0, 2, 0x40], [1, 0x4001]) for name in ("sendto", "recvfrom", "sendmmsg")),
    ("socketpair", [], [1], [0, 2, 10, 16, 30]),
    ("ioctl", [0], [0x5401, 0x541B, 0x8912, 0x893F, 0x8A00, 0xC0206911], [0x8940, 0x8982, 0x8983]),
    ("ioctl", [0], [0x5411, 0x5413, 0x5422, 0x5424, 0x8004_5430], [0x5412, 0x5423, 0x8004_5423]),
    ("ioctl", [0], [0xFFFF_FFFF_C020_6911], [0x8941]),
    ("setsockopt", [0, SOCKET], [2, 4, 7, 8, 9, 13, 15, 20, 21], [26, 27, 50, 51, 52, 37, 60, 65]),
    ("setsockopt", [0, IP], [1, 2, 8, 10, 11, 24, 35], [16, 17, 64, 200]),
    ("setsockopt", [0, TCP], [1, 4, 5, 6, 12, 13, 18, 23, 25, 30], [14, 19, 31, 32, 37, 38, 39]),
    ("setsockopt", [0, UDP], [1, 103, 104], [100, 105]),
    ("setsockopt", [0, IPV6], [16, 20, 25, 26, 49, 67], [1, 6, 27, 32, 34, 64]),
    ("setsockopt", [0], [], [132, 255, 263, 270, 279, 282, 283, 284]),
]


@promise("F22")
@pytest.mark.parametrize(("name", "before", "good", "bad"), CONDITIONS, ids=str)
def test_a_condition(
    rules: list[Config], name: str, before: list[int], good: list[int], bad: list[int]
) -> None:
    """Refused values stay refused with any upper half, which the kernel ignores."""

    def asked(last: int) -> bool:
        return passes(rules, name, dict(enumerate([*before, last])))

    assert [one for one in good if not asked(one)] == []
    assert [one for one in bad if asked(one)] == []
    for upper in (1 << 32, 1 << 63, 0xFFFF_FFFF << 32):
        assert [one for one in bad if asked(one | upper)] == [], hex(upper)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_blocks_of_a_range_hold_its_numbers_alone(bound: int, other: int, number: int) -> None:
    first, last = sorted((bound, other))
    blocks = list(oci._blocks(first, last))
    for tried in (number, first, last, max(first - 1, 0), min(last + 1, 2**64 - 1)):
        found = [b for b in blocks if tried & b["value"] == b["valueTwo"]]
        assert len(found) == (first <= tried <= last), tried
