"""`quiltfn serve`: this process becomes the launcher; it starts the server and watches it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import quiltfn
from quiltfn.launcher import main as launcher
from quiltfn.settings import BadSetting, Settings, from_environment

EXIT_BAD_SETTING = 78
GUEST = Path(quiltfn.__file__).parent / "guest" / "bin" / "guest"


def main(arguments: Sequence[str]) -> int:
    """Runs until the server has ended; returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        settings = from_environment(vars(given))
    except BadSetting as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        return EXIT_BAD_SETTING
    if not GUEST.exists():
        print(f"quiltfn: the guest is missing at {GUEST}; run scripts/setup", file=sys.stderr)
        return launcher.UNUSABLE
    return launcher.run(
        launcher.Options(
            host=settings.host,
            port=settings.port,
            data_dir=settings.data_dir,
            run_dir=settings.run_dir,
            guest=GUEST,
            server=server_command(settings),
            program=program_paths(),
            crun=settings.crun,
        )
    )


def server_command(settings: Settings) -> list[str]:
    """How the launcher starts the server; -I keeps its caller's environment and directory out."""
    return [
        sys.executable,
        "-I",
        "-m",
        "quiltfn.main",
        f"--data-dir={settings.data_dir}",
        f"--node-id={settings.node_id}",
        f"--idle-s={settings.idle_s}",
        f"--drain-s={settings.drain_s}",
    ]


def program_paths() -> list[Path]:
    """Everything that the server's program is read from."""
    package = Path(quiltfn.__file__).resolve().parent.parent
    paths = [Path(sys.prefix), Path(sys.base_prefix), package]
    return list(dict.fromkeys(paths))


def parser() -> argparse.ArgumentParser:
    """The command line; what is not given comes from the environment or the defaults."""
    it = argparse.ArgumentParser(
        prog="quiltfn serve",
        description="Start the server here, as root: it gives root up before it listens.",
        epilog="exit codes: 0 drained after SIGTERM · 69 machine or address unusable · 70 the "
        "server ended unexpectedly · 73 data directory unusable · 74 database unusable · "
        "77 not root · 78 a setting is wrong",
    )
    it.add_argument("--host", help="address to listen on (default 127.0.0.1; loopback only)")
    it.add_argument("--port", help="port to listen on, 0 picks a free one (default 8080)")
    it.add_argument("--data-dir", help="where the database is kept (default ./data)")
    it.add_argument("--node-id", help="this node's name in records (default: the host's name)")
    it.add_argument("--idle-s", help="seconds an idle instance is kept (default 300)")
    it.add_argument("--drain-s", help="seconds running calls have after SIGTERM (default 30)")
    it.add_argument("--crun", help="the OCI runtime (default /usr/bin/crun)")
    it.add_argument("--run-dir", help="run-time state, swept after a crash (default /run/quiltfn)")
    return it
