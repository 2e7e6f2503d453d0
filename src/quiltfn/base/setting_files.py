"""Read files that settings name, some of which only root may read."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

EXIT_BAD_SETTING = 78
PRIVATE_MAX_BYTES = 64 * 1024


class BadSetting(ValueError):
    """A setting that cannot be used; the text is a sentence that names it."""


def read_config(path: Path) -> str:
    """The text of the settings file. Raises `BadSetting`."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"the settings file {path} cannot be read: {error}") from None


def read_secret(name: str, path: Path) -> str:
    """The content of the secret file that a setting names. Raises `BadSetting`."""
    with _readable(name, path):
        return path.read_text()


def read_private(name: str, path: Path) -> str:
    """As `read_secret`, for a file that only its owner may access. Raises `BadSetting`."""
    with _readable(name, path), path.open() as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise BadSetting(
                f"{name}: {path} must be accessible only to its owner, but its mode is {mode:04o}: "
                f"chmod 600 {path}"
            )
        return file.read(PRIVATE_MAX_BYTES)


@contextlib.contextmanager
def _readable(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise BadSetting(f"{name}: {path} cannot be read: {reason}") from None
