"""`quiltfn serve`: read settings and secrets, then become the launcher."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import quiltfn
from quiltfn.launcher import main as launcher
from quiltfn.settings import (
    RENAMED,
    SETTINGS,
    BadSetting,
    Settings,
    from_everywhere,
    read_private,
    read_secret,
    warnings_of,
)

EXIT_BAD_SETTING = 78
GUEST = Path(quiltfn.__file__).parent / "guest" / "bin" / "guest"
# Files that only root may have to read: read here, given to the server as text.
SECRET_FILES = (
    "tls_cert",
    "tls_key",
    "jwt_secret",
    "jwt_jwks",
    "record_key_file",
    "store_password_file",
    "otlp_headers_file",
)
# Those that are refused where others may read them.
PRIVATE_FILES = ("fleet",)


def main(arguments: Sequence[str]) -> int:
    """Runs until the server has ended; returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        settings = from_everywhere(vars(given))
        for sentence in warnings_of(vars(given)):
            print(f"quiltfn: {sentence}", file=sys.stderr)
        secrets = read_secrets(settings)
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
            # -I keeps the caller's environment and directory out.
            server=[sys.executable, "-I", "-m", "quiltfn.server.main"],
            given={"settings": as_text(settings), "secrets": secrets},
            program=program_paths(),
            crun=settings.crun,
            runsc=settings.runsc,
            egress_dns=settings.egress_dns,
            output_max=settings.output_max,
            room=room_of(settings),
        )
    )


def room_of(settings: Settings) -> dict[str, int]:
    """What one sandbox may use at most, by the names that the launcher has."""
    return {
        "pids": settings.sandbox_processes_max,
        "tmp_mib": settings.sandbox_tmp_max_mib,
        "file_mib": settings.sandbox_file_max_mib,
        "open_files": settings.sandbox_open_files_max,
    }


def read_secrets(settings: Settings) -> dict[str, str]:
    """The contents of the secret files that are set. Raises `BadSetting`."""
    found: dict[str, str] = {}
    for names, read in ((SECRET_FILES, read_secret), (PRIVATE_FILES, read_private)):
        paths = {name: getattr(settings, name) for name in names}
        found |= {name: read(name, path) for name, path in paths.items() if path != Path()}
    return found


def as_text(settings: Settings) -> dict[str, str]:
    """Every setting as text, for the server to read again. An unset path is an empty text."""
    values = {one.name: getattr(settings, one.name) for one in SETTINGS}
    return {name: "" if value == Path() else str(value) for name, value in values.items()}


def program_paths() -> list[Path]:
    """The directories from which the server's process imports its code."""
    package = Path(quiltfn.__file__).resolve().parent.parent
    paths = [Path(sys.prefix), Path(sys.base_prefix), package]
    return list(dict.fromkeys(paths))


def parser() -> argparse.ArgumentParser:
    """The command line, with an option for each setting."""
    it = argparse.ArgumentParser(
        prog="quiltfn serve",
        description="Start the server here, as root: it gives root up before it listens.",
        epilog="exit codes: 0 drained after SIGTERM · 69 machine or address unusable · 70 the "
        "server ended unexpectedly · 73 data directory unusable · 74 database unusable · "
        "75 no room on the disk, or the data directory is gone · "
        "77 not root · 78 a setting is wrong",
    )
    it.add_argument("--config", help="a TOML file with settings")
    for setting in SETTINGS:
        default = "" if setting.default in ("", Path()) else f" (default {setting.default})"
        option = "--" + setting.name.replace("_", "-")
        it.add_argument(option, metavar="VALUE", help=setting.about + default)
    for old in RENAMED:
        it.add_argument("--" + old.replace("_", "-"), help=argparse.SUPPRESS)
    return it
