"""The configuration for gVisor's runsc: each sandbox's isolation, as runsc enforces it."""

import json
from pathlib import Path
from typing import Any

import pytest

from quiltfn.launcher import gvisor, oci, preflight
from quiltfn.launcher.gvisor import Gvisor
from quiltfn.launcher.preflight import GVISOR_PROBE, PreflightFailed
from quiltfn.launcher.state import UID_BASE
from quiltfn.model.errors import Unprocessable
from quiltfn.model.runtime import Isolation, Kind, Network, Runtime

Config = dict[str, Any]
HOST = oci.Host(machine="x86_64", root="/root", binds={"/usr": "/usr"}, oom_score_min=0)
LIMITS = GVISOR_PROBE.replace(cpu_percent=100.0, tmp_mib=512, open_files=4096)


def made(isolation: str, *writable: str) -> Config:
    spec = oci.SandboxSpec(limits=LIMITS, isolation=isolation, writable_paths=writable)
    return oci.config(HOST, spec, uid_base=UID_BASE + 65_536, cgroup="/quiltfn/x", hostname="0123")


def mounts(it: Config) -> dict[str, Config]:
    return {one["destination"]: one for one in it["mounts"]}


def of(rules: list[Config], name: str) -> list[Config]:
    return [one for one in rules if name in one["names"]]


CRUN, GVISOR = made("crun", "/data"), made("gvisor", "/data")


def test_who_it_is_and_what_it_sees_are_those_of_every_sandbox() -> None:
    for name in ("hostname", "root"):
        assert GVISOR[name] == CRUN[name]
    for name in ("user", "env", "cwd", "noNewPrivileges", "capabilities", "terminal"):
        assert GVISOR["process"][name] == CRUN["process"][name]
    for name in ("uidMappings", "gidMappings"):
        assert GVISOR["linux"][name] == CRUN["linux"][name]
    json.dumps(GVISOR, allow_nan=False)
    assert list(mounts(GVISOR)) == list(mounts(CRUN))
    # The mounts may only lack options that gVisor does not know.
    for point, mount in mounts(GVISOR).items():
        gone = set(mounts(CRUN)[point]["options"]) - set(mount["options"])
        assert {option.split("=")[0] for option in gone} <= {"nr_inodes", "hidepid", "gid"}, point


def test_the_guest_is_told_where_it_is_and_mounts_what_can_be_mounted() -> None:
    program, tmp, shm, score, where, *writable = GVISOR["process"]["args"]
    assert (program, where, writable) == (oci.GUEST, "gvisor", ["/data"])
    assert (tmp, shm) == ("mode=1777,size=512m", "mode=1777,size=64m")
    assert GVISOR["process"]["oomScoreAdj"] == int(score) >= 500


def test_the_group_is_joined_beforehand_and_what_it_cannot_count_is_limited_inside() -> None:
    found = {one["type"]: (one["soft"], one["hard"]) for one in GVISOR["process"]["rlimits"]}
    assert found.pop("RLIMIT_NPROC") == (LIMITS.pids, LIMITS.pids)
    assert found.pop("RLIMIT_SIGPENDING") == (128, 128)
    assert found == {one["type"]: (one["soft"], one["hard"]) for one in CRUN["process"]["rlimits"]}
    kinds = sorted(one["type"] for one in GVISOR["linux"]["namespaces"])
    assert kinds == ["ipc", "mount", "network", "pid", "user", "uts"]
    assert not [one for one in GVISOR["linux"]["namespaces"] if "path" in one]
    assert not {"cgroupsPath", "resources"} & set(GVISOR["linux"])


def test_its_own_kernel_is_asked_for_no_more_and_has_no_queues() -> None:
    ours, theirs = (it["linux"]["seccomp"]["syscalls"] for it in (GVISOR, CRUN))
    assert {name for one in ours for name in one["names"]} == {
        name for one in theirs for name in one["names"]
    } - {"mq_open", "mq_unlink"}
    assert of(ours, "mq_open") == []
    for name in ("clone", "unshare", "socket", "clone3"):
        assert of(ours, name) == of(theirs, name)
    for part in ("defaultAction", "defaultErrnoRet", "architectures"):
        assert GVISOR["linux"]["seccomp"][part] == CRUN["linux"]["seccomp"][part]


def test_the_flags_that_the_fence_rests_on(tmp_path: Path) -> None:
    command = Gvisor("/usr/bin/runsc").command(tmp_path)
    assert command[0] == "/usr/bin/runsc"
    before = command[: command.index("run")]
    for flag in (
        *("--network=none", "--host-uds=none", "--host-fifo=none", "--overlay2=none"),
        *("--oci-seccomp", "--ignore-cgroups", "--platform=systrap"),
    ):
        assert flag in before
    assert not [one for one in command if "TESTONLY" in one or "rootless" in one or "debug" in one]
    assert command[command.index("--pass-fd") + 1] == f"{oci.CONTROL_FD}:{oci.CONTROL_FD}"
    # All files of runsc are in the bundle, and are removed with it.
    assert f"--root={tmp_path / gvisor.ROOT}" in before


# Detection -----------------------------------------------------------------------------------


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_it_is_refused_until_it_was_seen_at_work(tmp_path: Path) -> None:
    found = Gvisor(program(tmp_path / "runsc", "echo runsc version release-20260101.0; echo spec"))
    assert found.why_not
    assert found.find()
    assert found.version == "release-20260101.0"
    assert found.why_not, "a program that knows its version has made no sandbox yet"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo crun version 1.21", "does not call itself runsc"),
        ("echo runsc version", "does not call itself runsc"),
        ("exit 1", "does not say its version"),
        ("kill $$", "does not say its version"),
    ],
)
def test_a_program_that_is_not_it(tmp_path: Path, text: str, why: str) -> None:
    found = Gvisor(program(tmp_path / "runsc", text))
    assert not found.find()
    assert why in found.why_not
    missing = Gvisor(str(tmp_path / "missing"))
    assert not missing.find()
    assert missing.why_not == f"there is no {tmp_path / 'missing'}: apt install runsc"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"msg":"a","level":"warning"}\n{"msg":"it broke","level":"error"}\n', "it broke"),
        ('{"msg":"a","level":"warning"}\n', ""),
        ("panic: no JSON\n", ""),
        ("[]\n", ""),
        ("", ""),
    ],
)
def test_its_log_is_read_for_what_went_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "log").write_text(text)
    assert gvisor.error_in(tmp_path / "log") == message
    assert gvisor.error_in(tmp_path / "missing") == ""


def test_it_is_not_combined_with_egress() -> None:
    runtime = Runtime(
        id="", name="out", kind=Kind.SHELL, isolation=Isolation.GVISOR, network=Network.EGRESS
    )
    with pytest.raises(Unprocessable, match="network"):
        runtime.validate()


LATE = PreflightFailed(
    "the sandbox could not be made: runsc had not ended after 6 s and was killed"
)
BROKEN = PreflightFailed("the sandbox could not be made: runsc ended with 1")


@pytest.mark.parametrize(
    ("probes", "seen"),
    [
        ([LATE, "it"], "what was seen"),
        ([LATE, LATE], f"refused: {LATE}"),
        ([BROKEN], f"refused: {BROKEN}"),
    ],
    ids=["held up once", "always late", "broken"],
)
def test_a_probe_that_was_only_held_up_is_made_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probes: list[Any], seen: str
) -> None:
    """A probe that only took too long is repeated, since gVisor would otherwise stay refused as
    long as the server runs.
    """
    found = Gvisor(program(tmp_path / "runsc", "echo runsc version release-20260101.0; echo spec"))
    asked = iter(probes)

    def probe(*_: object) -> Any:
        assert not found.why_not, "or no sandbox is made"
        answer = next(asked)
        if isinstance(answer, PreflightFailed):
            raise answer
        return answer

    monkeypatch.setattr(preflight, "_probe", probe)
    monkeypatch.setattr(preflight, "judge_gvisor", lambda *_: "what was seen")
    none: Any = None
    assert preflight.check_gvisor(found, none, none, none, none) == seen
    assert next(asked, "all were made") == "all were made"
    assert found.why_not == seen.partition("refused: ")[2]
