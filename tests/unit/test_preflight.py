"""The checks of the sandbox that is created at start: every missing protection is named."""

from pathlib import Path

import pytest

from promises import promise
from quiltfn.launcher import preflight
from quiltfn.launcher.gvisor import pids
from quiltfn.launcher.preflight import (
    GVISOR_PROBE,
    PROBE,
    WITHIN,
    PreflightFailed,
    Seen,
    judge,
    judge_gvisor,
)
from quiltfn.launcher.state import SERVER_UIDS, UID_BASE, UIDS_PER_SANDBOX

MEMORY = str(PROBE.memory_mib << 20)
SOCKETS = str(PROBE.memory_mib << 18)
QUOTA = "{} {}".format(*PROBE.cpu_quota_and_period_us())
PIDS = str(PROBE.pids)
UID = str(UID_BASE + UIDS_PER_SANDBOX)
GOOD = Seen(
    status={"Uid": f"{UID}\t" * 4, "Seccomp": "2", "NoNewPrivs": "1", "CapBnd": "0" * 16},
    namespaces={"mnt", "pid", "net", "ipc", "uts", "cgroup", "user", "pid_for_children"},
    limits={"memory": MEMORY, "swap": MEMORY, "sockets": SOCKETS, "cpu": QUOTA, "pids": PIDS},
)


def status(**change: str) -> Seen:
    return GOOD._replace(status=GOOD.status | change)


def limits(**change: str | None) -> Seen:
    changed = GOOD.limits | change
    return GOOD._replace(limits={name: n for name, n in changed.items() if n is not None})


@pytest.mark.parametrize("mode", ["v1", "v2", "hybrid"])
def test_a_whole_fence_is_reported_as_it_was_seen(mode: str) -> None:
    seen = judge(GOOD, mode)
    assert set(seen) == {*MISSING, "network"}
    assert mode in seen["memory_limit"]
    assert UID in seen["user_namespace"]
    assert judge(GOOD, "v1")["socket_limit"] == "cgroup v1, TCP 1/4 of the memory"
    assert judge(limits(sockets=WITHIN), "v2")["socket_limit"] == "within the memory limit"


@pytest.mark.parametrize("swap", [MEMORY, "0", "none"], ids=["v1", "v2", "no swap on the host"])
def test_a_host_without_swap_needs_no_swap_limit(swap: str) -> None:
    assert judge(limits(swap=swap), "v2")["swap_limit"] == "none"


MISSING = {
    "user_namespace": [
        status(Uid="0\t0\t0\t0"),
        status(Uid=f"{SERVER_UIDS[-1]}\t" * 4),
        status(Uid="1000\t" * 4),
    ],
    "namespaces": [
        GOOD._replace(namespaces=GOOD.namespaces - {name})
        for name in ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")
    ],
    "seccomp": [status(Seccomp="0"), status(Seccomp="1"), status(Seccomp="")],
    "no_new_privileges": [status(NoNewPrivs="0"), status(NoNewPrivs="")],
    "capabilities": [status(CapBnd="00000000a80425fb"), status(CapBnd="0000000000000100")],
    "memory_limit": [limits(memory=None), limits(memory="max"), limits(memory=MEMORY + "0")],
    "swap_limit": [limits(swap=None), limits(swap="max"), limits(swap=MEMORY + "0")],
    "socket_limit": [limits(sockets=None), limits(sockets=MEMORY), limits(sockets="9" * 19)],
    "cpu_limit": [limits(cpu=None), limits(cpu="-1 100000"), limits(cpu="max 100000")],
    "pids_limit": [limits(pids=None), limits(pids="max"), limits(pids="1")],
}


@promise("F9")
@pytest.mark.parametrize(
    ("name", "seen"), [(name, seen) for name, cases in MISSING.items() for seen in cases]
)
def test_what_is_missing_is_named(name: str, seen: Seen) -> None:
    with pytest.raises(PreflightFailed, match=rf"lacks: {name} \(seen"):
        judge(seen, "hybrid")


def test_everything_that_is_missing_is_named_at_once() -> None:
    nothing = Seen({"Uid": "0", "Seccomp": "0", "NoNewPrivs": "0", "CapBnd": "ffff"}, set(), {})
    with pytest.raises(PreflightFailed) as failed:
        judge(nothing, "v1")
    assert all(name in str(failed.value) for name in MISSING)


@pytest.mark.parametrize(
    ("stat", "booted", "counts"),
    [
        ("anon 1\nsock 0\n", "quiet", True),
        ("anon 1\nsock 0\n", "quiet cgroup.memory=nokmem,nosocket", False),
        ("anon 1\nsocket 0\n", "quiet", False),
    ],
)
def test_v2_counts_sockets_where_it_was_not_told_to_leave_them_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stat: str, booted: str, counts: bool
) -> None:
    (tmp_path / "stat").write_text(stat)
    (tmp_path / "cmdline").write_text(booted)
    monkeypatch.setattr(preflight, "COMMAND_LINE", tmp_path / "cmdline")
    assert preflight._counts_sockets(tmp_path / "stat") is counts


# gVisor --------------------------------------------------------------------------------------

SENTRY = Seen(
    # The sentry keeps some capabilities in its own user namespace. They have no effect on the host.
    status=GOOD.status | {"CapBnd": "00000000002801ff"},
    namespaces={"mnt", "net", "ipc", "uts", "user"},
    limits={
        "memory": str(GVISOR_PROBE.memory_mib << 20),
        "swap": "0",
        "sockets": WITHIN,
        "cpu": "{} {}".format(*GVISOR_PROBE.cpu_quota_and_period_us()),
        "pids": str(pids(GVISOR_PROBE)),
    },
)


def test_a_whole_sentry_is_reported_as_it_was_seen() -> None:
    report = judge_gvisor(SENTRY, "release-20260101.0")
    assert report.startswith(
        "runsc release-20260101.0; its sentry has seccomp, no_new_privs, an own"
    )
    assert UID in report


SENTRY_MISSING = {
    "user_namespace": [
        SENTRY._replace(status=SENTRY.status | {"Uid": uid * 4}) for uid in ("0\t", "65534\t")
    ],
    "namespaces": [
        SENTRY._replace(namespaces=SENTRY.namespaces - {one}) for one in sorted(SENTRY.namespaces)
    ],
    "seccomp": [SENTRY._replace(status=SENTRY.status | {"Seccomp": one}) for one in ("0", "")],
    "no_new_privileges": [SENTRY._replace(status=SENTRY.status | {"NoNewPrivs": "0"})],
    "socket_limit": [SENTRY._replace(limits=SENTRY.limits | {"sockets": "9" * 19})],
    **{
        f"{name}_limit": [SENTRY._replace(limits=SENTRY.limits | {name: "max"})]
        for name in ("memory", "swap", "cpu", "pids")
    },
}


@pytest.mark.parametrize(
    ("name", "seen"), [(name, seen) for name, cases in SENTRY_MISSING.items() for seen in cases]
)
def test_what_a_sentry_lacks_is_named(name: str, seen: Seen) -> None:
    with pytest.raises(PreflightFailed, match=rf"gVisor's sentry lacks: {name} \(seen"):
        judge_gvisor(seen, "release-20260101.0")
