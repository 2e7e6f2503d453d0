#!/usr/bin/env python3
"""A virtual machine for `scripts/test-v2`: boots a disk image, shows the output of the tests, and
ends with their exit code.

Three serial ports: the console (a file), the output of the tests (standard output; with `--shell` a
terminal), and the exit code (a file). The machine ends with this process.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

QEMU = "qemu-system-x86_64"
# Three quarters of the memory must have room for 21 instances; the host provides only used memory.
MEMORY_MIB, PROCESSORS = 8192, 2
NO_RESULT, TOO_LONG = 70, 124
TIME_FACTOR = 10  # an emulated CPU may take this number of times as long
SLOW = (
    "machine: the CPU has no KVM here, so it is emulated, some ten times slower: tests wait"
    f" {TIME_FACTOR} times as long, and figures are those of an emulated machine"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualMachine:
    """`init`: the first process; empty: systemd. `scratch`: a directory for this program's
    files.
    """

    kernel: Path
    initrd: Path
    image: Path
    scratch: Path
    init: str = ""
    shell: bool = False

    @property
    def console(self) -> Path:
        return self.scratch / "console"

    @property
    def result(self) -> Path:
        return self.scratch / "result"


def kernel_line(machine: VirtualMachine, *, kvm: bool) -> str:
    """The kernel's command line. `panic=-1` reboots at once, and a reboot ends the machine."""
    words = ["root=/dev/vda", "rw", "console=ttyS0", "panic=-1", "systemd.firstboot=off"]
    if not kvm:
        words.append("mitigations=off")  # they are for other CPUs, and take a quarter of the time
        # Read by machine-inside, ignored by Linux.
        words.append(f"quiltfn.time_factor={TIME_FACTOR}")
    if machine.init:
        words.append(f"init={machine.init}")
    return " ".join(words)


def command(machine: VirtualMachine, *, kvm: bool) -> list[str]:
    """QEMU's command line, without network and display, and with the firmware that Linux needs to
    boot.
    """
    # An old CPU, since emulating the wide registers of newer ones takes longer than doing without.
    emulated = ["-accel", "tcg,tb-size=1024", "-cpu", "Nehalem"]
    processor = ["-accel", "kvm", "-cpu", "host"] if kvm else emulated
    return [
        # The machine ends with this process in any case.
        *("setpriv", "--pdeathsig", "KILL"),
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", *processor),
        *("-m", str(MEMORY_MIB), "-smp", str(PROCESSORS)),
        # Not synced, since the image is deleted afterwards.
        *("-drive", f"file={machine.image},if=virtio,format=raw,cache=unsafe"),
        *("-kernel", str(machine.kernel), "-initrd", str(machine.initrd)),
        *("-append", kernel_line(machine, kvm=kvm)),
        *("-serial", f"file:{machine.console}"),
        *("-chardev", "stdio,id=talk,signal=off", "-serial", "chardev:talk"),
        *("-serial", f"file:{machine.result}"),
    ]


def has_kvm(root: Path = Path("/")) -> bool:
    """Whether the CPU supports virtual machines here. Some virtual machines have KVM in software
    only, which runs only kernels that were built for it.
    """
    if not os.access(root / "dev/kvm", os.R_OK | os.W_OK):
        return False
    return any((root / "sys/module" / name).is_dir() for name in ("kvm_intel", "kvm_amd"))


def verdict(machine: VirtualMachine) -> int:
    """The exit code of the tests; or `NO_RESULT`, after printing the end of the console's
    output.
    """
    said = machine.result.read_text().strip() if machine.result.exists() else ""
    if said.isdigit() and int(said) < 256:
        return int(said)
    console = machine.console.read_text(errors="replace") if machine.console.exists() else ""
    print("machine: it ended without a result; its console's end:", file=sys.stderr)
    for line in console.splitlines()[-40:]:
        print(f"    {line}", file=sys.stderr)
    return NO_RESULT


def run(machine: VirtualMachine, *, kvm: bool, timeout_s: float) -> int:
    """Boots the machine, waits for its end, and returns the exit code."""
    process = subprocess.Popen(
        command(machine, kvm=kvm),
        stdin=None if machine.shell else subprocess.DEVNULL,
    )
    try:
        with contextlib.suppress(KeyboardInterrupt):
            process.wait(None if machine.shell else timeout_s)
            return verdict(machine)
        return 128 + signal.SIGINT
    except subprocess.TimeoutExpired:
        print(f"machine: it did not end within {timeout_s / 60:.0f} minutes", file=sys.stderr)
        return TOO_LONG
    finally:
        process.kill()
        process.wait()


def main(arguments: Sequence[str]) -> int:
    given = parser().parse_args(arguments)
    machine = VirtualMachine(
        kernel=given.kernel,
        initrd=given.initrd,
        image=given.image,
        scratch=given.scratch,
        init=given.init,
        shell=given.shell,
    )
    kvm = has_kvm()
    if not kvm:
        print(SLOW, file=sys.stderr)
    return run(machine, kvm=kvm, timeout_s=given.minutes * 60)


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(description=__doc__)
    for name in ("kernel", "initrd", "image", "scratch"):
        it.add_argument(f"--{name}", type=Path, required=True)
    it.add_argument("--init", default="", help="program to start instead of systemd")
    it.add_argument("--shell", action="store_true", help="run a shell on this terminal")
    it.add_argument("--minutes", type=float, default=90.0, help="time limit (default: 90)")
    return it


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main(sys.argv[1:]))
