"""`quiltfn doctor`: checks this machine; `--sweep` removes leftovers of a crash.

Without `--sweep`, it changes nothing. `--images` reads all images, which can take minutes. Each
line has ok, warn or NO, a sentence, and advice; NO means that `serve` cannot start.
"""

import argparse
import contextlib
import fcntl
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from quiltfn.base.setting_files import BadSetting
from quiltfn.host import checks as host_findings
from quiltfn.host import programs as host_programs
from quiltfn.host.checks import Finding, Level
from quiltfn.launcher import cgroups, host_image, state
from quiltfn.operator.serve import GUEST
from quiltfn.settings import Settings, from_everywhere, is_store_verified, store_secret

FINE, NOT_FINE, NOT_ROOT = 0, 1, 77


def main(arguments: Sequence[str]) -> int:
    """Prints one line per finding; returns 0 if a server can start."""
    given = parser().parse_args(arguments)
    try:
        settings = from_everywhere(vars(given))
        if given.sweep:
            return sweep(settings.run_dir)
    except (BadSetting, cgroups.CgroupsUnusable) as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        return NOT_FINE
    findings = examine(settings)
    if given.images:
        findings.append(images(settings))
    print(as_json(findings) if given.output == "json" else as_text(findings))
    return NOT_FINE if any(one.level is Level.NO for one in findings) else FINE


def sweep(run_dir: Path) -> int:
    """Removes leftovers of servers whose launcher is dead. Does not touch running servers."""
    if os.geteuid() != 0:
        print("quiltfn: doctor --sweep must run as root", file=sys.stderr)
        return NOT_ROOT
    swept = state.sweep(run_dir, cgroups.detect())
    print(f"swept {swept['servers']} ended server(s) and {swept['sandboxes']} sandbox(es)")
    return FINE


def examine(settings: Settings, root: Path = Path("/")) -> list[Finding]:
    """Checks requirements of `serve` on this machine, and conditions that weaken the
    isolation of sandboxes.
    """
    groups, mode = control_groups()
    return [
        user(),
        groups,
        host_programs.crun(settings.crun),
        host_programs.guest(GUEST, platform.machine()),
        host_programs.shell(host_image.static_shell(GUEST)),
        host_findings.disk(settings.data_dir),
        *(database(settings) if settings.fleet == Path() else fleet(settings)),
        *host_findings.of_the_host(root, mode),
        host_programs.egress(),
        host_programs.gvisor(settings.runsc),
        leftovers(settings.run_dir),
    ]


def user() -> Finding:
    if os.geteuid() == 0:
        return host_findings.fine("root", "started as root")
    return host_findings.refuse(
        "root", "not root, which serve needs", "start it as root, for example with sudo"
    )


def control_groups() -> tuple[Finding, str]:
    """Checks how control groups are mounted, and where a server would create its own."""
    try:
        found = cgroups.detect()
    except cgroups.CgroupsUnusable as error:
        advice = "mount cgroup v2 at /sys/fs/cgroup"
        return host_findings.refuse("cgroups", f"control groups: {error}", advice), "none"
    where = os.path.dirname(found.path("server", "")).removesuffix("/server") or "/"
    return host_findings.fine(
        "cgroups", f"control groups: {found.mode}; the server's below {where}"
    ), found.mode


def database(settings: Settings) -> Iterator[Finding]:
    """Checks that PostgreSQL responds, if it is the store."""
    if not settings.store:
        return
    # Imported here, since this takes longer than all other imports.
    from quiltfn.server.opened_store import version_of  # noqa: PLC0415
    from quiltfn.store import StoreBroken  # noqa: PLC0415

    try:
        version = version_of(settings, store_secret(settings))
    except BadSetting as error:
        yield host_findings.refuse(
            "store", str(error), "correct the setting, or install quiltfn[postgresql]"
        )
    except StoreBroken as error:
        sentence = f"{settings.store} does not respond: {error}"
        yield host_findings.refuse(
            "store", sentence, "start the database, or correct the setting store"
        )
    else:
        is_verified = is_store_verified(settings.store)
        yield host_findings.database(settings.store, is_verified, version)


def fleet(settings: Settings) -> Iterator[Finding]:
    """Checks for conditions that keep this node out of its fleet, or that weaken the fleet."""
    from quiltfn.operator import fleet_doctor  # noqa: PLC0415 - unused by a standalone server

    yield from fleet_doctor.examine(settings, settings.fleet)


def images(settings: Settings) -> Finding:
    """Checks that images have the content that was uploaded. A server may run at the same time."""
    from quiltfn.images import verify  # noqa: PLC0415 — for this option alone

    try:
        there = verify.stored(settings.data_dir / "images")
    except PermissionError:
        sentence = f"only its server and root can read {settings.data_dir}"
        return host_findings.warn("image_contents", sentence, "run doctor as root")
    damaged = [one for one in there if verify.is_damaged(one)]
    is_node = settings.fleet != Path()
    return host_findings.image_contents(damaged, len(there), is_node=is_node)


def leftovers(run_dir: Path) -> Finding:
    """Reports leftovers of dead servers without removing them."""
    try:
        return host_programs.leftovers(sorted(dead_servers(run_dir)))
    except PermissionError:
        return host_findings.warn(
            "leftovers", f"only root can read {run_dir}", "run doctor as root"
        )


def dead_servers(run_dir: Path) -> Iterator[str]:
    """Yields servers whose lock is free. Holds the run directory's lock meanwhile, so that a
    starting server does not find its own lock taken by this check.
    """
    if not (run_dir / "servers").is_dir():
        return
    with _locked(run_dir / "lock"):
        for server in (run_dir / "servers").iterdir():
            try:
                with _locked(server / "lock", fcntl.LOCK_NB):
                    yield server.name
            except BlockingIOError:
                continue


@contextlib.contextmanager
def _locked(path: Path, flag: int = 0) -> Iterator[None]:
    """Holds a lock during the block; does nothing if the file does not exist."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(FileNotFoundError):
            file = held.enter_context(path.open("rb"))
            fcntl.flock(file, fcntl.LOCK_EX | flag)
        yield


def as_text(findings: Sequence[Finding]) -> str:
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4} {finding.sentence}")
        if finding.advice:
            lines.append(f"     → {finding.advice}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    can_start = all(one.level is not Level.NO for one in findings)
    listed = [
        {"name": f.name, "level": f.level, "sentence": f.sentence, "advice": f.advice or None}
        for f in findings
    ]
    return json.dumps({"can_start": can_start, "findings": listed}, indent=2, ensure_ascii=False)


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(
        prog="quiltfn doctor",
        description="Check this machine; --sweep removes leftovers of a crash.",
        epilog="exit codes: 0 a server can start · 1 it cannot",
    )
    it.add_argument("--sweep", action="store_true", help="remove leftovers of ended servers")
    it.add_argument(
        "--images",
        action="store_true",
        help="read every image in the data directory, and report damaged ones",
    )
    it.add_argument("--config", help="the server's settings file")
    it.add_argument("--run-dir", help="run-time state (default /run/quiltfn)")
    it.add_argument("--data-dir", help="the server's data directory (default ./data)")
    it.add_argument("--store", help="the database of a server with its state in PostgreSQL")
    it.add_argument("--store-password-file", help="file with the password of that database")
    it.add_argument("--fleet", metavar="FILE", help="a node's file, to check its fleet as well")
    it.add_argument("--crun", help="the OCI runtime (default /usr/bin/crun)")
    it.add_argument("--runsc", help="gVisor (default /usr/bin/runsc)")
    it.add_argument("--output", "-o", choices=["table", "json"], default="table")
    return it
