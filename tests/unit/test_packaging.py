"""The files of packages: the unit of a server, sample settings, and pages of the command line."""

import os
import re
import runpy
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from promises import promise
from quiltfn import settings
from quiltfn.cli import root
from quiltfn.operator import service
from quiltfn.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "packaging" / "quiltfn.service"
SAMPLE = ROOT / "packaging" / "quiltfn.toml"

# The known options, according to the manual pages systemd.unit, .service, .exec, .kill and
# .resource-control.
KNOWN = {
    "Unit": {"Description", "After", "StartLimitIntervalSec"},
    "Service": {
        *("Type", "ExecStart", "Restart", "RestartSec", "RestartSteps", "RestartMaxDelaySec"),
        *("RestartPreventExitStatus",),
        *("TimeoutStopSec", "KillMode", "OOMPolicy", "Delegate", "DelegateSubgroup", "TasksMax"),
        *("LimitNOFILE", "OOMScoreAdjust", "StateDirectory", "StateDirectoryMode", "UMask"),
        *("RuntimeDirectory", "RuntimeDirectoryMode", "RuntimeDirectoryPreserve"),
        *("WorkingDirectory", "NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp"),
        *("KeyringMode", "CapabilityBoundingSet"),
    },
    "Install": {"WantedBy"},
}
# With any of these options, no sandbox could be created, or every handler would be slowed down.
HARMFUL = {
    *("ProtectKernelTunables", "ProtectKernelLogs", "ProtectProc", "ProcSubset"),
    *("ProtectControlGroups", "ProtectKernelModules", "PrivateDevices", "PrivateUsers"),
    *("RestrictNamespaces", "PrivateNetwork", "SystemCallFilter", "MemoryDenyWriteExecute"),
}


def unit() -> dict[str, dict[str, list[str]]]:
    """The unit file: the values of each option of each section, in the order of the file."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in UNIT.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            options = sections.setdefault(line.strip("[]"), defaultdict(list))
        else:
            name, equals, value = line.partition("=")
            assert equals, line
            options[name].append(value)
    return sections


def test_the_unit_has_options_that_exist_and_break_no_sandbox() -> None:
    for section, options in unit().items():
        assert set(options) <= KNOWN[section], section
    assert not set(unit()["Service"]) & HARMFUL
    comments = UNIT.read_text()
    assert [name for name in HARMFUL if name not in comments] == []


def test_the_unit_has_the_controllers_directories_and_times_of_the_settings() -> None:
    service = unit()["Service"]
    assert set(service["Delegate"][0].split()) == {"cpu", "memory", "pids"}
    assert service["DelegateSubgroup"] == ["supervisor"]
    assert service["KillMode"] == ["mixed"]
    assert int(service["TimeoutStopSec"][0]) >= Settings().drain_s + 15
    assert settings.read_file(SAMPLE) == {"data_dir": "/var/lib/quiltfn/data"}
    assert service["StateDirectory"][0] == "quiltfn"
    assert str(Settings().run_dir) == f"/run/{service['RuntimeDirectory'][0].split()[0]}"
    assert "/etc/quiltfn/quiltfn.toml" in service["ExecStart"][0]


def check_with_systemd(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


@promise("M8")
def test_the_service_is_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert service.main(["install", "--root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    unit = tmp_path / "etc/systemd/system/quiltfn.service"
    sample = tmp_path / "etc/quiltfn/quiltfn.toml"
    program = re.findall(r"ExecStart=(\S+)", unit.read_text())[0]
    assert Path(program).exists()
    assert unit.read_text().replace(program, "/usr/local/bin/quiltfn") == UNIT.read_text()
    assert sample.read_text() == SAMPLE.read_text()
    assert oct(unit.stat().st_mode & 0o777) == oct(sample.stat().st_mode & 0o777) == "0o644"
    # A unit that was written below another root directory can't be started here.
    assert f"on the system that boots from {tmp_path}" in printed
    assert "daemon-reload" not in printed
    # An upgrade: an administrator's changes are kept.
    unit.write_text("[Service]\n")
    sample.write_text("port = 9\n")
    assert service.main(["install", "--root", str(tmp_path)]) == 0
    assert unit.with_name("quiltfn.service.before").read_text() == "[Service]\n"
    assert sample.read_text() == "port = 9\n"
    assert "ExecStart" in unit.read_text()
    assert service.main(["uninstall", "--root", str(tmp_path)]) == 0
    assert "daemon-reload" not in capsys.readouterr().out
    assert not list(unit.parent.iterdir())
    assert sample.exists()


def test_what_is_written_to_this_system_is_started_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "is_here", lambda _: True)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert service.main(["install", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(
        "Next:\n  systemctl daemon-reload\n  systemctl enable --now quiltfn\n"
    )
    assert service.main(["uninstall", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("Next:\n  systemctl daemon-reload\n")


def test_unwritable_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = tmp_path / "etc/systemd/system/quiltfn.service"
    unit.with_name(".quiltfn.service.new").mkdir(parents=True)
    assert service.main(["install", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"quiltfn: {unit}: Is a directory\n"


@promise("M8")
def test_systemd_takes_the_unit_as_it_is_written(tmp_path: Path) -> None:
    assert service.main(["install", "--root", str(tmp_path)]) == 0
    check_with_systemd(tmp_path / "etc/systemd/system/quiltfn.service")


def test_every_generated_file_is_current() -> None:
    files = runpy.run_path(str(ROOT / "scripts" / "generate.py"))["FILES"]
    for path, text in files.items():
        assert path.read_text() == text(), f"{path}: run scripts/generate.py"


def test_the_manual_page_is_one_that_man_reads_without_a_warning(tmp_path: Path) -> None:
    if shutil.which("man") is None:
        pytest.skip("needs man: apt install man-db")

    def read(page: Path) -> subprocess.CompletedProcess[str]:
        command = ["man", "--warnings", "--encoding=UTF-8", "--local-file", str(page)]
        environment = {**os.environ, "MANWIDTH": "200"}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)

    done = read(ROOT / "client" / "quiltfn.1")
    assert done.stderr == ""
    assert "quiltfn functions create NAME [OPTIONS]" in done.stdout
    assert "base64 -w0 photo.jpg | quiltfn invoke thumb >thumb.png" in done.stdout
    wrong = tmp_path / "wrong.1"  # negative control: an unknown macro must be found
    wrong.write_text(".TH QUILTFN 1\n.SH NAME\nquiltfn\n.nothing of the kind\n")
    assert "nothing" in read(wrong).stderr


def test_every_command_and_what_it_takes_is_on_the_page_of_the_command_line() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text()
    for words in root.COMMANDS.keys() | {
        f"{word} {name}" for word in root.GROUPS for name in root.group(word).commands
    }:
        assert page.count(f"### quiltfn {words}\n") == 1
    for word in root.ON_THIS_MACHINE:
        assert f"| `quiltfn {word}` |" in page
    assert "| `--output, -o {table,json,yaml}` |" in page
    assert "| `--keep-state, --clean` |" in page


def test_the_sample_uncommented_is_the_defaults(tmp_path: Path) -> None:
    text = re.sub(r"^# (\w+ = )", r"\1", SAMPLE.read_text(), flags=re.MULTILINE)
    whole = tmp_path / "quiltfn.toml"
    whole.write_text(text)
    found = settings.from_everywhere({"config": str(whole), "node_id": "n"}, {})
    wanted = Settings(node_id="n", data_dir=Path("/var/lib/quiltfn/data"))
    assert found == wanted
    assert len(settings.read_file(whole)) == len(vars(wanted))
