"""The settings of `quiltfn serve`, parsed and checked by a child without root (`serve.py`)."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quiltfn.base.setting_files import EXIT_BAD_SETTING, BadSetting
from quiltfn.settings import (
    RENAMED,
    SETTINGS,
    Settings,
    config_of,
    from_everywhere,
    read_file,
    warnings_of,
)

# Settings with files that only root may be able to read: root passes on their text.
SECRET_FILES = (
    "tls_cert",
    "tls_key",
    "jwt_secret",
    "jwt_jwks",
    "record_key_file",
    "store_password_file",
    "otlp_headers_file",
)
# Settings that name files which are refused if other users can read them.
PRIVATE_FILES = ("fleet",)


def choose(arguments: Sequence[str], config: str | None) -> dict[str, Any]:
    """Returns the settings for launcher and server, as JSON values. `config`: the text of the
    settings file. If the text is needed but missing, the result has only the path of the file.

    Prints errors and raises `SystemExit`.
    """
    given = vars(parser().parse_args(arguments))
    path = config_of(given)
    if path and config is None:
        return {"config": path}
    try:
        in_file = read_file(Path(path), config) if path else {}
        settings = from_everywhere(given, in_file=in_file)
    except BadSetting as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_SETTING)
    for sentence in warnings_of(given, in_file):
        print(f"quiltfn: {sentence}", file=sys.stderr)
    return {
        "launcher": launcher_options(settings),
        "settings": as_text(settings),
        "files": secret_files(settings),
    }


def launcher_options(settings: Settings) -> dict[str, Any]:
    """Returns the launcher's options that come from settings."""
    return {
        "host": settings.host,
        "port": settings.port,
        "data_dir": str(settings.data_dir),
        "run_dir": str(settings.run_dir),
        "crun": settings.crun,
        "runsc": settings.runsc,
        "egress_dns": settings.egress_dns,
        "output_max": settings.output_max,
        "room": room_of(settings),
    }


def room_of(settings: Settings) -> dict[str, int]:
    """Returns the maximum limits of one sandbox, by the launcher's names."""
    return {
        "pids": settings.sandbox_processes_max,
        "tmp_mib": settings.sandbox_tmp_max_mib,
        "file_mib": settings.sandbox_file_max_mib,
        "open_files": settings.sandbox_open_files_max,
    }


def secret_files(settings: Settings) -> dict[str, dict[str, str]]:
    """Returns the paths of the configured secret files, grouped by the way to read them."""
    kinds = {"secret": SECRET_FILES, "private": PRIVATE_FILES}
    return {
        kind: {name: str(path) for name in names if (path := getattr(settings, name)) != Path()}
        for kind, names in kinds.items()
    }


def as_text(settings: Settings) -> dict[str, str]:
    """Returns every setting as text, which the server parses again. An unset path is empty."""
    values = {setting.name: getattr(settings, setting.name) for setting in SETTINGS}
    return {name: "" if value == Path() else str(value) for name, value in values.items()}


def parser() -> argparse.ArgumentParser:
    """The command line, with an option for each setting."""
    it = argparse.ArgumentParser(
        prog="quiltfn serve",
        usage="%(prog)s [--config FILE] [--SETTING VALUE …]; --help lists the settings",
        description="Start the server on this machine, as root: it drops root before it listens.",
        epilog="exit codes: 0 drained after SIGTERM · 69 machine or address unusable · 70 the "
        "server ended unexpectedly · 73 data directory unusable · 74 database unusable · "
        "75 no room on the disk, or the data directory is gone · "
        "77 not root · 78 a setting is wrong",
    )
    it.add_argument("--config", help="TOML file with settings")
    for setting in SETTINGS:
        default = "" if setting.default in ("", Path()) else f" (default {setting.default})"
        option = "--" + setting.name.replace("_", "-")
        it.add_argument(option, metavar="VALUE", help=setting.about + default)
    for old in RENAMED:
        it.add_argument("--" + old.replace("_", "-"), help=argparse.SUPPRESS)
    return it
