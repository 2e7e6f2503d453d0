"""`quiltfn doctor` on machines that consist of files: findings, their meaning, and their output."""

import fcntl
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from quiltfn.host import checks as host_findings
from quiltfn.host import programs as host_programs
from quiltfn.host.checks import Finding, Level
from quiltfn.launcher import host_image
from quiltfn.operator import doctor
from quiltfn.operator.serve import GUEST
from quiltfn.settings import Settings

GOOD = {
    "proc/sys/kernel/osrelease": "6.12.41+deb13-amd64\n",
    "proc/sys/user/max_user_namespaces": "96365\n",
    "proc/sys/kernel/seccomp/actions_avail": "kill_process kill_thread trap errno allow\n",
    "proc/swaps": "Filename Type Size Used Priority\n",
    "sys/kernel/mm/ksm/run": "0\n",
    "sys/devices/system/cpu/smt/active": "0\n",
    "proc/sys/kernel/io_uring_disabled": "2\n",
    "proc/sys/kernel/unprivileged_bpf_disabled": "2\n",
    "proc/sys/kernel/core_pattern": "core\n",
    "sys/kernel/security/lsm": "lockdown,capability,landlock,yama,apparmor\n",
    "proc/self/mountinfo": "25 1 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
}
MakeRoot = Callable[[dict[str, str | None]], Path]


@pytest.fixture
def root(tmp_path: Path) -> MakeRoot:
    """A function that makes a machine without problems, except that some files are changed or, if
    their text is None, removed.
    """

    def make(changes: dict[str, str | None]) -> Path:
        for name, text in {**GOOD, **changes}.items():
            if text is not None:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text(text)
        return tmp_path

    return make


def named(findings: list[Finding], name: str) -> Finding:
    (found,) = [one for one in findings if one.name == name]
    return found


def test_a_good_machine_is_told_nothing_to_do(root: MakeRoot) -> None:
    for finding in host_findings.of_the_host(root({}), "v2"):
        assert (finding.level, finding.advice) == (Level.OK, ""), finding


KERNEL, MOUNTS = "proc/sys/kernel", "proc/self/mountinfo"
NAMESPACES = "proc/sys/user/max_user_namespaces"
UNIT = "etc/systemd/system/quiltfn.service"


@pytest.mark.parametrize(
    ("changes", "name", "level", "words"),
    [
        ({f"{KERNEL}/osrelease": "5.4.0-generic"}, "kernel", Level.NO, "older than 5.10"),
        ({f"{KERNEL}/osrelease": "5.10.0"}, "kernel", Level.OK, "Linux 5.10.0"),
        ({NAMESPACES: "0"}, "user_namespaces", Level.NO, "does not allow"),
        ({NAMESPACES: None}, "user_namespaces", Level.NO, "does not allow"),
        ({f"{KERNEL}/seccomp/actions_avail": None}, "seccomp", Level.NO, "no seccomp filters"),
        ({"proc/swaps": "Filename\n/dev/sda2 partition\n"}, "swap", Level.WARN, "swap is on"),
        ({"sys/kernel/mm/ksm/run": "1"}, "ksm", Level.WARN, "merges equal memory pages"),
        ({"sys/kernel/mm/ksm/run": None}, "ksm", Level.OK, "KSM is off"),
        ({"sys/devices/system/cpu/smt/active": "1"}, "smt", Level.WARN, "side channels"),
        ({f"{KERNEL}/io_uring_disabled": "0"}, "io_uring", Level.OK, "filter blocks it"),
        ({f"{KERNEL}/unprivileged_bpf_disabled": "0"}, "bpf", Level.WARN, "bpf is on"),
        ({f"{KERNEL}/core_pattern": "|/usr/lib/dump %P"}, "core_pattern", Level.WARN, "as root"),
        ({"sys/kernel/security/lsm": None}, "lsm", Level.OK, "neither AppArmor nor SELinux"),
        ({"sys/kernel/security/lsm": "selinux"}, "lsm", Level.OK, "selinux loaded"),
        ({}, "favordynmods", Level.OK, "remount,favordynmods"),
        ({MOUNTS: "cgroup2 rw,favordynmods"}, "favordynmods", Level.OK, "no effect"),
        ({UNIT: "[Service]\nDelegate=no\n"}, "service", Level.WARN, "does not delegate"),
        ({UNIT: "[Service]\n"}, "service", Level.WARN, "does not delegate"),
        ({UNIT: "[Service]\nDelegate=cpu memory pids\n"}, "service", Level.OK, "is installed"),
    ],
)
def test_what_is_found_and_what_it_means(
    root: MakeRoot, changes: dict[str, str | None], name: str, level: Level, words: str
) -> None:
    found = named(list(host_findings.of_the_host(root(changes), "v2")), name)
    assert found.level is level
    assert words in found.sentence
    assert bool(found.advice) is (level is not Level.OK), "who is warned is told what to do"


@pytest.mark.parametrize(
    ("said", "level", "words"),
    [
        ("crun version 1.21\ncommit: x\n", Level.WARN, ["CVE-2026-30892", "not affected"]),
        ("crun version 1.27.1\n", Level.WARN, ["CVE-2026-47766", "CVE-2026-88264/5"]),
        ("crun version 1.28\n", Level.OK, ["crun 1.28 at /usr/bin/crun"]),
        ("crun version 2.0\n", Level.OK, ["crun 2.0"]),
        ("runc version 1.3.0\n", Level.WARN, ["only crun is tested"]),
        (None, Level.NO, ["no working OCI runtime"]),
    ],
)
def test_the_runtime_and_its_known_holes(said: str | None, level: Level, words: list[str]) -> None:
    found = host_programs.crun("/usr/bin/crun", lambda _: said)
    assert found.level is level
    assert [word for word in words if word not in found.sentence] == []


def elf(number: int) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + number.to_bytes(2, "little")


def test_where_shells_start_from() -> None:
    without, built = (host_programs.shell(Path(one)) for one in ("/does/not/exist", "/bin/sh"))
    assert (without.level, built.level) == (Level.OK, Level.OK)
    assert without.sentence.startswith("shells start from /bin/sh; a static copy of it would be")
    assert built.sentence == "shells start from a static copy of /bin/sh, which is faster"


@pytest.mark.parametrize(
    ("content", "mode", "level", "words"),
    [
        (elf(62), 0o755, Level.OK, "for x86_64"),
        (elf(183), 0o755, Level.NO, "for aarch64, this machine is x86_64"),
        (elf(8), 0o755, Level.NO, "for another processor"),
        (elf(62), 0o644, Level.NO, "is not executable"),
        (b"#!/bin/sh\n", 0o755, Level.NO, "is not a program"),
        (None, 0, Level.NO, "is missing"),
    ],
)
def test_the_guest_is_there_and_runs_here(
    tmp_path: Path, content: bytes | None, mode: int, level: Level, words: str
) -> None:
    path = tmp_path / "guest"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    found = host_programs.guest(path, "x86_64")
    assert found.level is level
    assert words in found.sentence


@pytest.mark.parametrize(
    ("mib", "level"), [(63, Level.NO), (64, Level.WARN), (1023, Level.WARN), (1024, Level.OK)]
)
def test_room_for_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mib: int, level: Level
) -> None:
    class Usage:
        free = mib * 1024 * 1024

    asked: list[Path] = []

    def usage(path: Path) -> type[Usage]:
        asked.append(path)
        return Usage

    monkeypatch.setattr("shutil.disk_usage", usage)
    assert host_findings.disk(tmp_path / "not" / "yet").level is level
    assert asked == [tmp_path]


def test_what_egress_needs_is_named_and_its_lack_stops_nothing() -> None:
    missing = host_programs.egress(lambda name: None if name == "nft" else name)
    assert missing.level is Level.OK
    assert "refused: there is no nft; " in missing.sentence
    assert "apt install nftables slirp4netns" in missing.sentence
    assert host_programs.egress(lambda name: name).sentence == "nft and slirp4netns are installed"


RUNS = "at /r; serve tests it at start"
NO_RUNSC = "isolation: gvisor is refused: there is no working runsc at /r; "


@pytest.mark.parametrize(
    ("said", "level", "words"),
    [
        ("runsc version 0.0~20240729.0\n", Level.WARN, [RUNS, "more than a year old"]),
        ("runsc version release-20250301.0-4-gabc\n", Level.WARN, [RUNS, "more than a year old"]),
        ("runsc version release-20250601.0\nspec: 1.1.0\n", Level.OK, [RUNS]),
        ("runsc version VERSION_MISSING\n", Level.OK, ["runsc VERSION_MISSING", RUNS]),
        *((said, Level.OK, [NO_RUNSC]) for said in (None, "", "crun version 1.21\n")),
    ],
)
def test_missing_and_old_gvisor(said: str | None, level: Level, words: list[str]) -> None:
    found = host_programs.gvisor("/r", lambda _: said, today=date(2026, 5, 1))
    assert found.level is level
    assert [word for word in words if word not in found.sentence] == []
    assert ("more than a year old" in found.sentence) == (level is Level.WARN)


def test_the_dead_are_counted_and_not_swept(tmp_path: Path) -> None:
    assert doctor.leftovers(tmp_path / "none").level is Level.OK
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "lock").touch()
    for name in ("dead", "alive", "lockless"):
        (tmp_path / "servers" / name).mkdir(parents=True)
    (tmp_path / "servers" / "dead" / "lock").touch()
    with (tmp_path / "servers" / "alive" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = doctor.leftovers(tmp_path)
    assert found.level is Level.WARN
    assert "2 ended server(s)" in found.sentence
    assert "dead, lockless" in found.sentence
    assert "--sweep" in found.advice
    assert (tmp_path / "servers" / "dead").is_dir()


# Output --------------------------------------------------------------------------------------

FINDINGS = [
    host_findings.fine("a", "good"),
    host_findings.warn("b", "doubtful", "look"),
    host_findings.refuse("c", "bad", "mend it"),
]


def test_findings_are_lines_or_json_and_a_warning_does_not_keep_a_server_from_starting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda _: FINDINGS)
    assert doctor.main([]) == 1
    assert capsys.readouterr().out == (
        "ok   good\nwarn doubtful\n     → look\nNO   bad\n     → mend it\n"
    )
    assert doctor.main(["--output", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["can_start"] is False
    assert report["findings"][0] == {"name": "a", "level": "ok", "sentence": "good", "advice": None}
    assert report["findings"][2]["level"] == "NO"
    monkeypatch.setattr(doctor, "examine", lambda _: FINDINGS[:2])
    assert doctor.main([]) == 0
    assert doctor.main(["--config", "/does/not/exist"]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_everything_is_looked_at_once(root: MakeRoot, tmp_path: Path) -> None:
    findings = doctor.examine(Settings(run_dir=tmp_path / "run"), root({}))
    names = [one.name for one in findings]
    assert len(set(names)) == len(names)
    assert {"root", "cgroups", "crun", "guest", "disk", "runsc", "leftovers"} <= set(names)
    if GUEST.exists():
        assert named(findings, "guest").level is Level.OK
    is_static = host_image.static_shell(GUEST).exists()
    assert ("from a static copy" in named(findings, "shell").sentence) is is_static
