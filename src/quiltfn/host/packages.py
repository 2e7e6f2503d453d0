"""What the host's files offer to functions: interpreters, and a name for the installed packages."""

import hashlib
from pathlib import Path

# Where Debian keeps which packages are installed, and so what /usr holds.
PACKAGES = Path("/var/lib/dpkg/status")
INTERPRETERS = {"python": Path("/usr/bin/python3"), "node": Path("/usr/bin/node")}


def packages_hash() -> str:
    """A name for the set of installed packages; "unknown" on a host without Debian's list.

    The host's own files cannot be pinned, so this is how a change of them is shown.
    """
    try:
        return hashlib.sha256(PACKAGES.read_bytes()).hexdigest()[:32]
    except OSError:
        return "unknown"


def interpreters() -> dict[str, str]:
    """The languages that sandboxes of the host image can run: kind → path, links resolved."""
    return {
        kind: str(path.resolve())
        for kind, path in INTERPRETERS.items()
        if path.exists() and str(path.resolve()).startswith("/usr/")
    }
