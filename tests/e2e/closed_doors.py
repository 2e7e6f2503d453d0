"""Run as a handler: tries the doors that `forbidden.py` does not, and prints how each try ended.

"open" is what must not be; everything else is the name of an error, or of the signal that ended the
try. System call numbers are x86_64's.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import signal
import socket
import struct

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    **{"process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "delete_module": 176},
    **{"kexec_file_load": 320, "swapoff": 168, "setdomainname": 171, "vhangup": 153},
    **{"iopl": 172, "ioperm": 173, "lookup_dcookie": 212, "move_pages": 279},
    **{"migrate_pages": 256, "fanotify_init": 300, "fanotify_mark": 301, "memfd_secret": 447},
    **{"io_uring_enter": 426, "io_uring_register": 427, "fsconfig": 431, "fsmount": 432},
    **{"fspick": 433, "mount_setattr": 442, "quotactl_fd": 443, "statmount": 457},
    **{"listmount": 458, "clock_adjtime": 305, "process_madvise": 440, "nfsservctl": 180},
    **{"process_mrelease": 448, "uselib": 134, "ustat": 136, "sysfs": 139, "_sysctl": 156},
    **{"create_module": 174, "query_module": 178, "get_kernel_syms": 177, "inotify_init": 253},
    **{"inotify_init1": 294, "io_setup": 206, "io_submit": 209, "sync": 162, "syncfs": 306},
    **{"set_mempolicy_home_node": 450, "fsopen": 430, "open_tree": 428, "move_mount": 429},
    **{"pidfd_getfd": 438, "an unknown one": 999, "another unknown one": 4095},
}
FLAGS = {
    **{"mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000},
    **{"user": 0x10000000, "pid": 0x20000000, "net": 0x40000000, "time": 0x80},
}
FAMILIES = [one for one in range(46) if one not in (0, 1, 2, 10, 16)]
CONTROLLERS = ["memory", "pids", "cpu", "devices", "freezer", "cpuset", "rdma"]


def call(number, *arguments):
    def attempt():
        if libc.syscall(ctypes.c_long(number), *arguments) < 0:
            raise OSError(ctypes.get_errno(), "")

    return attempt


def old_entry():
    """getpid by int 0x80, the door of i386: mov eax, 20; int 0x80; ret."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    where = ctypes.addressof(ctypes.c_char.from_buffer(page))
    value = ctypes.CFUNCTYPE(ctypes.c_int)(where)()
    if value < 0:
        raise OSError(-value, "")


def steal_input():
    fd = os.open("/dev/tty", os.O_RDWR)
    fcntl.ioctl(fd, 0x5412, b"x")


def new_terminal():
    os.openpty()


def mount(kind, options):
    return call(165, b"none", b"/tmp", kind.encode(), 0, options.encode())


tries = {f"call {name}": call(number, 0, 0, 0, 0, 0, 0) for name, number in NUMBERS.items()}
for name, flag in FLAGS.items():
    tries[f"call unshare {name}"] = call(272, flag)
    if name != "time":  # there that bit is a part of the signal to send
        tries[f"call clone {name}"] = call(56, flag | 17, 0, 0, 0, 0)
for family in FAMILIES:
    for kind in (1, 2, 3):
        tries[f"call socket {family} {kind}"] = lambda f=family, k=kind: socket.socket(f, k, 0)
for protocol in range(1, 23):
    tries[f"call netlink {protocol}"] = lambda p=protocol: socket.socket(16, 3, p)
tries["x32"] = call(0x40000000 | 39)
tries["i386"] = old_entry
tries["keys typed for others"] = steal_input
tries["a terminal"] = new_terminal
tries["mount cgroup2"] = mount("cgroup2", "")
for controller in CONTROLLERS:
    tries[f"mount cgroup {controller}"] = mount("cgroup", controller)
tries["mount proc"] = mount("proc", "")
tries["mount sysfs"] = mount("sysfs", "")
tries["mount overlay"] = mount("overlay", "lowerdir=/usr,upperdir=/tmp,workdir=/tmp")

told = {}
for name, attempt in tries.items():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
            code = 0
        except OSError as error:
            code = error.errno or errno.ETIMEDOUT
        os.write(write, struct.pack("i", code))
        os._exit(0)
    os.close(write)
    data = os.read(read, 4)
    os.close(read)
    status = os.waitpid(pid, 0)[1]
    if data:
        code = struct.unpack("i", data)[0]
        told[name] = errno.errorcode.get(code, str(code)) if code else "open"
    else:
        told[name] = signal.Signals(os.WTERMSIG(status)).name
found = []
with open("/proc/self/mountinfo") as mounts:
    for line in mounts:
        if line.split(" - ")[1].startswith("cgroup"):
            found.append(line.split()[4])
for top, _, files in os.walk("/sys/fs/cgroup"):
    found += [f"{top}/{one}" for one in files if os.access(f"{top}/{one}", os.W_OK)]
told["writable files of a control group"] = ", ".join(found) or "none"
print(json.dumps(told))
