"""The host's interpreters for functions, and a hash of its installed packages."""

import hashlib
from pathlib import Path

# Debian's list of installed packages. These determine the content of /usr.
PACKAGES = Path("/var/lib/dpkg/status")
INTERPRETERS = {"python": Path("/usr/bin/python3"), "node": Path("/usr/bin/node")}


def packages_hash() -> str:
    """Returns a hash of the list of installed packages; "unknown" on a host without Debian's list.

    The host's files cannot be pinned to a version, so this hash shows when they have changed.
    """
    try:
        return hashlib.sha256(PACKAGES.read_bytes()).hexdigest()[:32]
    except OSError:
        return "unknown"


def interpreters() -> dict[str, str]:
    """The interpreters available in sandboxes of the host image: kind → path, links resolved."""
    return {
        kind: str(path.resolve())
        for kind, path in INTERPRETERS.items()
        if path.exists() and str(path.resolve()).startswith("/usr/")
    }
