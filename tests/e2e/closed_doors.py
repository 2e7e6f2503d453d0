"""Run as a handler: tries system calls, few of which `forbidden.py` tries, too, and prints the
outcome of each. "open" is a failure of the sandbox; any other outcome is the name of an error, or
of the signal that ended the attempt. System call numbers are x86_64's.
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
FAMILIES = [one for one in range(46) if one not in (0, 1, 2, 10)]
# Options of sockets that handlers may not set: kind of socket, level, option. seccomp.json explains
# why.
OPTIONS = {
    **{f"socket {one}": (2, 1, one) for one in (26, 27, 36, 37, 50, 51, 52, 60, 61, 65)},
    **{f"tcp {one}": (1, 6, one) for one in (14, 19, 27, 29, 31, 32, 37, 38, 39, 40)},
    **{"udp encapsulation": (2, 17, 100), "ip policy": (1, 0, 16), "netfilter": (1, 0, 64)},
    **{f"level {one}": (1, one, 1) for one in (132, 255, 263, 270, 279, 282, 283, 284)},
}
OPTIONS6 = {f"ipv6 {one}": (1, 41, one) for one in (1, 6, 27, 32, 34, 64)}
FILTER = struct.pack("HBBI", 6, 0, 0, 0xFFFF)  # a packet filter that accepts every packet
UPPER = 1 << 32  # the kernel ignores this bit of an argument, but a filter of 64 bits doesn't
CONTROLLERS = ["memory", "pids", "cpu", "devices", "freezer", "cpuset", "rdma"]


def call(number, *arguments):
    def attempt():
        if libc.syscall(ctypes.c_long(number), *arguments) < 0:
            raise OSError(ctypes.get_errno(), "")

    return attempt


def old_entry():
    """Calls getpid by int 0x80, the entry of i386: mov eax, 20; int 0x80; ret."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    where = ctypes.addressof(ctypes.c_char.from_buffer(page))
    value = ctypes.CFUNCTYPE(ctypes.c_int)(where)()
    if value < 0:
        raise OSError(-value, "")


def option(family, kind, level, number, upper=0):
    def attempt():
        with socket.socket(family, kind) as sock:
            rules = ctypes.create_string_buffer(FILTER)
            program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(rules))
            value = program if level == 1 and number in (26, 51) else struct.pack("QQ", 1, 1)
            where = ctypes.c_char_p(value)
            numbers = (sock.fileno(), level | upper, number | upper)
            call(54, *map(ctypes.c_long, numbers), where, ctypes.c_long(len(value)))()

    return attempt


def at_upper(number, *arguments):
    """Like `call`, with a bit of the upper half set in each argument. The kernel ignores this bit;
    a filter that compares 64 bits doesn't.
    """
    return call(number, *(ctypes.c_long(one | UPPER) for one in arguments))


def of_file(number, *arguments, path="/usr/bin/env"):
    """A system call whose first argument is a file or directory that every sandbox can read."""

    def attempt():
        file = os.open(path, os.O_RDONLY)
        call(number, ctypes.c_long(file), *arguments)()

    return attempt


def read_with(flags):
    def attempt():
        page = ctypes.create_string_buffer(64)
        vector = struct.pack("QQ", ctypes.addressof(page), 64)
        offset = [ctypes.c_long(0)] * 2
        last = ctypes.c_long(flags)
        read = of_file(327, ctypes.c_char_p(vector), ctypes.c_long(1), *offset, last)
        # These errors aren't the filter's: the kernel returns them if data isn't cached, or if the
        # file is on an overlay.
        try:
            read()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise

    return attempt


def set_times(path):
    def attempt():
        os.utime(path)

    return attempt


def steal_input():
    fd = os.open("/dev/tty", os.O_RDWR)
    fcntl.ioctl(fd, 0x5412, b"x")


def of_terminal(number, value):
    """A request on the handler's own terminal. It must be refused since it can affect terminals of
    others.
    """

    def attempt():
        fcntl.ioctl(os.openpty()[1], number, value)

    return attempt


def mount(kind, options):
    return call(165, b"none", b"/tmp", kind.encode(), 0, options.encode())


tries = {f"call {name}": call(number, 0, 0, 0, 0, 0, 0) for name, number in NUMBERS.items()}
for name, flag in FLAGS.items():
    tries[f"call unshare {name}"] = call(272, flag)
    if name != "time":  # in `clone`, the bit of a time namespace is a part of the signal
        tries[f"call clone {name}"] = call(56, flag | 17, 0, 0, 0, 0)
for family in FAMILIES:
    for kind in (1, 2, 3):
        tries[f"call socket {family} {kind}"] = lambda f=family, k=kind: socket.socket(f, k, 0)
for protocol in range(1, 23):
    tries[f"call netlink {protocol}"] = lambda p=protocol: socket.socket(16, 3, p)
for name, (kind, level, number) in OPTIONS.items():
    tries[f"call setsockopt {name}"] = option(2, kind, level, number)
    tries[f"call setsockopt {name}, upper half"] = option(2, kind, level, number, UPPER)
for name, (kind, level, number) in OPTIONS6.items():
    tries[f"call setsockopt {name}"] = option(10, kind, level, number)
for name, number in {"SIOCGIFBR": 0x8940, "SIOCSIFBR": 0x8941, "SIOCGIFVLAN": 0x8982}.items():
    tries[f"call ioctl {name}"] = of_file(16, ctypes.c_long(number), ctypes.c_long(0))
    tries[f"call ioctl {name}, upper half"] = of_file(16, ctypes.c_long(number | UPPER))
long = ctypes.c_long
tries["call seccomp strict"] = call(317, 0, 0, 0)
tries["call seccomp filter"] = call(317, 1, 0, struct.pack("HxxxxxxQ", 1, 0))
tries["call prctl seccomp"] = call(157, 22, 1)
tries["call prctl seccomp, upper half"] = at_upper(157, 22, 1)
tries["call prctl a core of its own"] = call(157, 62, 1, 0, 1, 0)
tries["call prctl merging"] = call(157, 67, 1, 0, 0, 0)
tries["call prctl names of mappings"] = call(157, 0x53564D41, 0, 0, 0, 0)
tries["call fcntl F_NOTIFY"] = of_file(72, long(1026), long(1), path="/usr")
tries["call fcntl F_SETSIG"] = of_file(72, long(10), long(9), path="/usr")
tries["call fcntl F_SETSIG, upper half"] = of_file(72, long(10 | UPPER), long(9), path="/usr")
tries["call fcntl F_NOTIFY, upper half"] = of_file(72, long(1026 | UPPER), long(1), path="/usr")
tries["call fcntl F_SETLEASE"] = of_file(72, long(1024), long(2))
tries["call fcntl F_SET_RW_HINT"] = of_file(72, long(1036), ctypes.c_char_p(bytes(8)))
for flags in (8, 0x80, 8 | UPPER):
    tries[f"call preadv2 {flags:x}"] = read_with(flags)
tries["call cachestat"] = of_file(451, ctypes.c_char_p(bytes(16)), ctypes.c_char_p(bytes(40)), 0)
tries["call fadvise64 DONTNEED"] = of_file(221, long(0), long(0), long(4))
tries["call fadvise64 DONTNEED, upper half"] = of_file(221, long(0), long(0), long(4 | UPPER))
tries["call openat2"] = call(437, -100, b"/usr", struct.pack("QQQ", 0, 0, 0x20), 24)
tries["call vmsplice"] = call(278, 0, None, 0, 0)
for advice in (12, 20, 21):
    tries[f"call madvise {advice}"] = call(28, None, long(0), advice)
    tries[f"call madvise {advice}, upper half"] = call(28, None, long(0), long(advice | UPPER))
tries["call mmap huge"] = call(9, None, long(2 << 20), 3, 0x40022, -1, long(0))
tries["call memfd_create huge"] = call(319, b"x", 4)
tries["call shmget huge"] = call(29, 0, long(2 << 20), 0o5600)
for family in (2, 10, 16, 30, 38):
    tries[f"call socketpair {family}"] = call(53, family, 5, 0, ctypes.create_string_buffer(8))
first, other = socket.socketpair()
empty = ctypes.create_string_buffer(56)  # a msghdr without a message
for name, number in {"sendmsg": 46, "recvmsg": 47}.items():
    tries[f"call {name} MSG_OOB"] = call(number, long(first.fileno()), empty, long(1))
for name, number in {"sendto": 44, "recvfrom": 45}.items():
    arguments = (long(first.fileno()), empty, long(1), long(1), None, None)
    tries[f"call {name} MSG_OOB"] = call(number, *arguments)
for name in ("null", "zero", "full", "random", "urandom", "tty"):
    tries[f"times of /dev/{name}"] = set_times(f"/dev/{name}")
tries["x32"] = call(0x40000000 | 39)
tries["i386"] = old_entry
tries["keys typed for others"] = steal_input
tries["call ioctl TIOCSTI"] = of_terminal(0x5412, b"x")
tries["call ioctl TIOCSETD"] = of_terminal(0x5423, struct.pack("i", 0))
tries["mount cgroup2"] = mount("cgroup2", "")
for controller in CONTROLLERS:
    tries[f"mount cgroup {controller}"] = mount("cgroup", controller)
tries["mount proc"] = mount("proc", "")
tries["mount sysfs"] = mount("sysfs", "")
tries["mount overlay"] = mount("overlay", "lowerdir=/usr,upperdir=/tmp,workdir=/tmp")

results = {}
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
        results[name] = errno.errorcode.get(code, str(code)) if code else "open"
    else:
        results[name] = signal.Signals(os.WTERMSIG(status)).name
found = []
with open("/proc/self/mountinfo") as mounts:
    for line in mounts:
        if line.split(" - ")[1].startswith("cgroup") and "ro" not in line.split()[5].split(","):
            found.append(line.split()[4])
for top, _, files in os.walk("/sys/fs/cgroup"):
    found += [f"{top}/{one}" for one in files if os.access(f"{top}/{one}", os.W_OK)]
results["writable files of a control group"] = ", ".join(found) or "none"
print(json.dumps(results))
