"""`quiltfn serve`: reads secrets, then becomes the launcher.

A child without root parses the settings (`chosen_settings.py`): the parsers never run as root.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import quiltfn
from quiltfn.base.setting_files import (
    EXIT_BAD_SETTING,
    BadSetting,
    read_config,
    read_private,
    read_secret,
)
from quiltfn.launcher import confine, unprivileged
from quiltfn.launcher import main as launcher

GUEST = Path(quiltfn.__file__).parent / "guest" / "bin" / "guest"


def main(arguments: Sequence[str]) -> int:
    """Runs until the server has ended; returns the exit code."""
    try:
        confine.check_readable(program_paths())
        chosen = settings_of(arguments)
        secrets = read_secrets(chosen["files"])
    except confine.NotReadable as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        return launcher.NO_DATA_DIR
    except BadSetting as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        return EXIT_BAD_SETTING
    except unprivileged.NoResult as end:
        return end.code
    if not GUEST.exists():
        print(f"quiltfn: the guest is missing at {GUEST}; run scripts/setup", file=sys.stderr)
        return launcher.UNUSABLE
    own = chosen["launcher"]
    return launcher.run(
        launcher.Options(
            **own | {name: Path(own[name]) for name in ("data_dir", "run_dir")},
            guest=GUEST,
            # -I ignores the caller's environment and working directory.
            server=[sys.executable, "-I", "-m", "quiltfn.server.main"],
            given={"settings": chosen["settings"], "secrets": secrets},
            program=program_paths(),
        )
    )


def settings_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the settings, as `chosen_settings.choose` does. Root reads the settings file, which
    may be unreadable for others. Raises `BadSetting` and `unprivileged.NoResult`.
    """
    chosen = _choose(arguments, None)
    if "config" in chosen:
        chosen = _choose(arguments, read_config(Path(chosen["config"])))
    return chosen


def _choose(arguments: Sequence[str], config: str | None) -> dict[str, Any]:
    def choose() -> dict[str, Any]:
        from quiltfn.operator import chosen_settings  # noqa: PLC0415 — in the child alone

        return chosen_settings.choose(arguments, config)

    chosen: dict[str, Any] = unprivileged.result_of(choose, program_paths())
    return chosen


def read_secrets(files: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The contents of the secret files that are set. Raises `BadSetting`."""
    readers = {"secret": read_secret, "private": read_private}
    return {
        name: readers[kind](name, Path(path))
        for kind, paths in files.items()
        for name, path in paths.items()
    }


def program_paths() -> list[Path]:
    """The directories from which the server's process imports its code."""
    package = Path(quiltfn.__file__).resolve().parent.parent
    paths = [Path(sys.prefix), Path(sys.base_prefix), package]
    return list(dict.fromkeys(paths))
