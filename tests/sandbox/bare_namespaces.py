"""A program that creates the namespaces of `bare_guest.py`, takes the user ids that its parent
maps, mounts /proc, /tmp and /dev/shm, and becomes the parent of pid 1. All mounts are in the new
mount namespace, so they end with the guest.

The program is started for every guest. It has few imports, since they would take most of its time.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import sys

TMP_OPTIONS = "mode=1777,size=8m,nr_inodes=2048"
SHM_OPTIONS = "mode=1777,size=4m,nr_inodes=256"
# The capabilities that the runtime gives a guest: KILL, SETGID, SETUID, SETPCAP, SYS_ADMIN.
CAPABILITIES = (5, 6, 7, 8, 21)
SANITIZER = {
    "ASAN_OPTIONS": "detect_leaks=0:exitcode=99",
    "UBSAN_OPTIONS": "halt_on_error=1:exitcode=99",
}
BUILT = f"{os.path.dirname(__file__)}/../../src/quiltfn/guest/bin"
# What makes shells forkable, by its path in the sandbox, where all users can read it: a library,
# and a static copy of this machine's shell if there is one.
LIBRARY, STATIC_SHELL = "/mnt/shell.so", "/mnt/dash"
SHOWN = {LIBRARY: f"{BUILT}/shell.so"}
for name in os.listdir(BUILT):
    if name.startswith("dash-"):
        SHOWN[STATIC_SHELL] = f"{BUILT}/{name}"


def _inside(guest: str, control: int, heard: int, tell: int, *options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes) -> None:
        check(libc.mount(source, target, kind, ctypes.c_ulong(flags), data))

    # The files are opened before /tmp is covered, since the checkout may be in it.
    binary = os.open(guest, os.O_RDONLY)
    contents = {}
    for path, source in SHOWN.items():
        with open(source, "rb") as file:
            contents[path] = file.read()
    # Creates a user, PID, mount, IPC and network namespace.
    check(libc.unshare(0x10000000 | 0x20000000 | 0x00020000 | 0x08000000 | 0x40000000))
    os.write(tell, b"u")
    if os.read(heard, 1) != b"m":
        return
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    child = os.fork()
    if child:
        os.close(control)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(status if status >= 0 else 128 - status)
    mount(b"none", b"/", b"", 0x4000 | 0x40000, b"")  # MS_REC | MS_PRIVATE
    mount(b"proc", b"/proc", b"proc", 0xE, b"hidepid=2,gid=0")  # nosuid, nodev, noexec
    mount(b"tmpfs", b"/tmp", b"tmpfs", 0x6, TMP_OPTIONS.encode())
    mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0xE, SHM_OPTIONS.encode())
    mount(b"tmpfs", b"/mnt", b"tmpfs", 0x6, b"mode=755")
    for path, content in contents.items():
        with open(path, "wb") as shown:
            shown.write(content)
        os.chmod(path, 0o755)
    any_socket = libc.socket(2, 2, 0)  # AF_INET, SOCK_DGRAM
    # SIOCSIFFLAGS with IFF_UP, as the OCI runtime does
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH22x", b"lo", 1))
    os.close(any_socket)
    for cap in range(64):
        if cap not in CAPABILITIES and cap != 8:
            libc.prctl(24, cap, 0, 0, 0)  # PR_CAPBSET_DROP
    check(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    os.umask(0o077)  # differs from the guest's own umask, which the guest must set itself
    if binary <= 3 or control != 3:
        binary = os.dup2(binary, 200)
        os.dup2(control, 3)
    os.set_inheritable(3, True)
    os.closerange(4, 200)
    os.set_inheritable(binary, False)
    os.execve(binary, ["guest", TMP_OPTIONS, SHM_OPTIONS, "500", *options], dict(SANITIZER))


if __name__ == "__main__":
    try:
        _inside(sys.argv[1], *map(int, sys.argv[2:5]), *sys.argv[5:])  # type: ignore[arg-type]
    finally:
        os._exit(97)
