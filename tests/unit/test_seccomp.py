"""The list of system calls, for every processor: what is on it, and on what condition."""

from typing import Any

import pytest

from quiltfn.launcher import oci

Config = dict[str, Any]
NEW_NAMESPACES = 0x7E02_0000
FORBIDDEN = """
    _sysctl acct add_key bpf chroot clock_adjtime clock_settime create_module delete_module
    fanotify_init fanotify_mark finit_module fsconfig fsmount fsopen fspick get_kernel_syms
    init_module inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
    io_getevents io_pgetevents io_setup io_submit io_uring_enter io_uring_register io_uring_setup
    ioperm iopl kcmp kexec_file_load kexec_load keyctl
    lookup_dcookie memfd_secret migrate_pages modify_ldt mount_setattr move_mount move_pages
    name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root
    process_madvise process_mrelease process_vm_readv process_vm_writev ptrace query_module quotactl
    quotactl_fd reboot request_key set_mempolicy_home_node setdomainname sethostname setns
    settimeofday statmount listmount stime swapoff swapon sync syncfs syslog umount uselib
    userfaultfd ustat vhangup vm86 vm86old
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


@pytest.mark.parametrize("name", ["clone", "unshare"])
def test_new_namespaces_are_masked_out(rules: list[Config], name: str) -> None:
    (only,) = of(rules, name)
    assert only["action"] == "SCMP_ACT_ALLOW"
    (condition,) = only["args"]
    wanted = {"index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    assert condition == wanted


def test_clone3_does_not_exist(rules: list[Config]) -> None:
    (only,) = of(rules, "clone3")
    assert (only["action"], only["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert "args" not in only


def test_socket_families(rules: list[Config]) -> None:
    found = of(rules, "socket")
    families = {one["args"][0]["value"] for one in found}
    assert families == {1, 2, 10, 16}, "unix, inet, inet6, netlink"
    assert all(one["args"][0]["op"] == "SCMP_CMP_EQ" for one in found)
    (netlink,) = (one for one in found if one["args"][0]["value"] == 16)
    assert netlink["args"][1] == {"index": 2, "value": 0, "op": "SCMP_CMP_EQ"}


@pytest.mark.parametrize("family", [2, 10])
def test_of_internet_sockets_tcp_and_udp_alone(rules: list[Config], family: int) -> None:
    """A handler that asks for SCTP would have the host load it, where the host has it."""
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


def test_what_programs_need_is_there(rules: list[Config]) -> None:
    for name in NEEDED.split():
        assert of(rules, name), name
