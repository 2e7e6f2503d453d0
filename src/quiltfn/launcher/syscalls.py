"""System calls that Python 3.11 lacks: mount, unshare, prctl. Each wrapper raises OSError."""

import ctypes
import os
from pathlib import Path

CLONE_NEWNS = 0x0002_0000
CLONE_NEWNET = 0x4000_0000
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_SLAVE = 1 << 19
MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


def _checked(result: int, call: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


def unshare_mounts() -> None:
    """Enters a new mount namespace. Later mounts of the host appear in it, but not vice versa."""
    _checked(_libc.unshare(CLONE_NEWNS), "unshare the mount namespace")
    mount(None, "/", None, MS_REC | MS_SLAVE)


def unshare_network() -> None:
    """Enters a new network namespace, which has only a loopback device that is down."""
    _checked(_libc.unshare(CLONE_NEWNET), "unshare the network namespace")


def enter_network(namespace: int) -> None:
    """Enters the network namespace of a descriptor."""
    _checked(_libc.setns(namespace, CLONE_NEWNET), "enter a network namespace")


def mount(
    source: str | Path | None,
    target: str | Path,
    kind: str | None,
    flags: int = 0,
    options: str | None = None,
) -> None:
    """mount(2)."""
    _checked(
        _libc.mount(
            os.fsencode(source) if source is not None else None,
            os.fsencode(target),
            kind.encode() if kind else None,
            flags,
            options.encode() if options else None,
        ),
        f"mount {target}",
    )


def bind(source: str | Path, target: str | Path, flags: int = 0) -> None:
    """A recursive bind mount with further `flags`, such as MS_RDONLY."""
    mount(source, target, None, MS_BIND | MS_REC)
    if flags:
        mount(None, target, None, MS_BIND | MS_REMOUNT | flags)


def unmount(target: str | Path) -> None:
    """Detaches the topmost mount at `target`, also if it is in use."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"unmount {target}")


def die_with_parent(signal_number: int) -> None:
    """Makes the kernel send this signal to this process when its parent ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "PR_SET_PDEATHSIG")


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose parent ends, so that it reaps them."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER")


def no_new_privileges() -> None:
    """Permanently ignores set-uid bits and file capabilities at exec."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def drop_bounding_set() -> None:
    """Empties the capability bounding and ambient sets (needs CAP_SETPCAP, so before setuid)."""
    capability = 0
    while _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:  # until the last one
        _checked(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "PR_CAPBSET_DROP")
        capability += 1
    _checked(
        _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "PR_CAP_AMBIENT_CLEAR_ALL"
    )
