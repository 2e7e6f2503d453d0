"""The virtual machine of `scripts/test-v2`, without starting one."""

import os
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = runpy.run_path(str(ROOT / "scripts" / "machine.py"))


def machine(scratch: Path, **more: Any) -> Any:
    paths = {name: scratch / name for name in ("kernel", "initrd", "image")}
    return CODE["VirtualMachine"](scratch=scratch, **paths, **more)


@pytest.mark.parametrize("kvm", [True, False])
def test_it_has_no_network_and_ends_with_us(tmp_path: Path, kvm: bool) -> None:
    said = CODE["command"](machine(tmp_path), kvm=kvm)
    assert said[:3] == ["setpriv", "--pdeathsig", "KILL"]
    assert "-nodefaults" in said
    assert not {"-netdev", "-nic", "-net"} & set(said)
    assert said[said.index("-m") + 1] == "8192"
    assert said[said.index("-accel") + 1].split(",")[0] == ("kvm" if kvm else "tcg")
    assert ("mitigations=off" in said[said.index("-append") + 1]) is not kvm


def test_tests_are_patient_where_all_is_emulated_and_nowhere_else(tmp_path: Path) -> None:
    emulated, real = (CODE["kernel_line"](machine(tmp_path), kvm=kvm) for kvm in (False, True))
    assert f"quiltfn.time_factor={CODE['TIME_FACTOR']}" in emulated.split()
    assert "time_factor" not in real
    inside = (ROOT / "scripts" / "machine-inside").read_text()
    (word,) = re.findall(r"grep -o '(quiltfn\\.time_factor=\[0-9\]\*)'", inside)
    assert re.findall(word, emulated) == [f"quiltfn.time_factor={CODE['TIME_FACTOR']}"]


@pytest.mark.parametrize(
    ("machine", "busy", "bound", "wait"),
    [
        (None, None, 2.0, 2.0),
        ("", "", 2.0, 2.0),
        ("10", None, 20.0, 20.0),
        (None, "3", 6.0, 2.0),
        ("10", "3", 20.0, 20.0),
    ],
)
def test_a_bound_is_what_is_written_unless_the_machine_or_its_load_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
    machine: str | None,
    busy: str | None,
    bound: float,
    wait: float,
) -> None:
    for name, said in (("TIME", machine), ("BUSY", busy)):
        monkeypatch.delenv(f"QUILTFN_TEST_{name}_FACTOR", raising=False)
        if said is not None:
            monkeypatch.setenv(f"QUILTFN_TEST_{name}_FACTOR", said)
    timeouts = runpy.run_path(str(ROOT / "tests" / "timeouts.py"))
    assert (timeouts["scaled"](2.0), timeouts["full_wait"](2.0)) == (bound, wait)


def test_another_init_is_named_to_the_kernel(tmp_path: Path) -> None:
    line = CODE["kernel_line"](machine(tmp_path, init="/sbin/other"), kvm=True)
    assert "init=/sbin/other" in line.split()
    assert "init=" not in CODE["kernel_line"](machine(tmp_path), kvm=True)


@pytest.mark.parametrize(
    ("modules", "device", "wanted"),
    [
        (["kvm", "kvm_intel"], True, True),
        (["kvm", "kvm_amd"], True, True),
        (["kvm", "kvm_pvm"], True, False),
        (["kvm", "kvm_intel"], False, False),
        ([], True, False),
    ],
)
def test_its_own_kvm_counts(tmp_path: Path, modules: list[str], device: bool, wanted: bool) -> None:
    for name in modules:
        (tmp_path / "sys/module" / name).mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    if device:
        (tmp_path / "dev/kvm").touch()
    assert CODE["has_kvm"](tmp_path) is wanted


@pytest.mark.parametrize(("said", "code"), [("0\n", 0), ("1\n", 1), ("5", 5)])
def test_the_code_comes_from_inside(tmp_path: Path, said: str, code: int) -> None:
    (tmp_path / "result").write_text(said)
    assert CODE["verdict"](machine(tmp_path)) == code


@pytest.mark.parametrize("said", [None, "", "nonsense", "256"])
def test_without_a_result_the_console_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str | None
) -> None:
    if said is not None:
        (tmp_path / "result").write_text(said)
    (tmp_path / "console").write_text("Kernel panic\n")
    assert CODE["verdict"](machine(tmp_path)) == CODE["NO_RESULT"] != os.EX_OK
    assert "Kernel panic" in capsys.readouterr().err
