"""Run as a handler: tries actions that must be impossible for handlers, and prints the outcome of
each. 0 is success, any other number is the errno. System call numbers are x86_64's.
"""

import ctypes
import json
import os
import resource
import signal
import socket

libc = ctypes.CDLL(None, use_errno=True)


def system(name, *arguments):
    def call():
        if getattr(libc, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), name)

    return call


def number(n, *arguments):
    def call():
        if libc.syscall(n, *arguments) < 0:
            raise OSError(ctypes.get_errno(), str(n))

    return call


def connect(family, address):
    def call():
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.settimeout(1)
            s.connect(address)

    return call


def write(path, text):
    def call():
        fd = os.open(path, os.O_WRONLY)
        os.write(fd, text)

    return call


def read(path):
    def call():
        if not os.read(os.open(path, os.O_RDONLY), 1):
            raise OSError(61, "empty")

    return call


PORT = int(os.environ["PORT"])
TRIES = {
    "signal pid 1": lambda: os.kill(1, signal.SIGTERM),
    "see pid 1": lambda: os.stat("/proc/1"),
    "list pid 1's descriptors": lambda: os.listdir("/proc/1/fd"),
    "memory of pid 1": read("/proc/1/mem"),
    "environ of pid 1": read("/proc/1/environ"),
    "the control socket": lambda: os.open("/proc/1/fd/3", os.O_RDWR),
    "limits of pid 1": number(302, 1, 7, b"\0" * 16, None),
    "ptrace pid 1": system("ptrace", 16, 1, 0, 0),
    "ptrace oneself": system("ptrace", 0, 0, 0, 0),
    "read pid 1's memory": number(310, 1, 0, 0, 0, 0, 0),
    "pidfd_getfd": number(438, 0, 3, 0),
    "mount": system("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "bind mount": system("mount", b"/usr", b"/tmp", None, 4096, None),
    "umount": system("umount2", b"/tmp", 2),
    "pivot_root": number(155, b"/tmp", b"/tmp"),
    "chroot": system("chroot", b"/tmp"),
    "unshare user": system("unshare", 0x10000000),
    "unshare mount": system("unshare", 0x20000),
    "unshare net": system("unshare", 0x40000000),
    "setns": system("setns", 0, 0),
    "clone user": number(56, 0x10000000 | 17, 0, 0, 0, 0),
    "clone3": number(435, b"\0" * 88, 88),
    "keyctl": number(250, 0, -3, 0),
    "add_key": number(248, b"user", b"a", b"b", 1, -3),
    "request_key": number(249, b"user", b"a", None, 0),
    "bpf": number(321, 0, b"\0" * 64, 64),
    "perf_event_open": number(298, b"\0" * 64, 0, -1, -1, 0),
    "userfaultfd": number(323, 0),
    "io_uring_setup": number(425, 8, b"\0" * 120),
    "open_by_handle_at": number(304, -100, b"\0" * 16, 0),
    "name_to_handle_at": number(303, -100, b"/", b"\0" * 16, b"\0" * 8, 0),
    "init_module": number(175, b"", 0, b""),
    "kexec_load": number(246, 0, 0, 0, 0),
    "reboot": system("reboot", 0),
    "swapon": number(167, b"/tmp", 0),
    "settimeofday": number(164, b"\0" * 16, None),
    "clock_settime": number(227, 0, b"\0" * 16),
    "fsopen": number(430, b"tmpfs", 0),
    "open_tree": number(428, -100, b"/", 1),
    "move_mount": number(429, -100, b"/", -100, b"/tmp", 0),
    "acct": number(163, None),
    "quotactl": number(179, 0, None, 0, None),
    "syslog": number(103, 2, None, 0),
    "modify_ldt": number(154, 0, None, 0),
    "personality": number(135, 0x0040000),
    "sethostname": system("sethostname", b"x", 1),
    "nice": lambda: os.nice(-5),
    "real-time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "setuid": lambda: os.setuid(0),
    "setgroups": lambda: os.setgroups([0]),
    "raise own limits": lambda: resource.setrlimit(7, (4097, 4097)),
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "packet socket": lambda: socket.socket(17, socket.SOCK_RAW, 0),
    "AF_ALG": lambda: socket.socket(38, socket.SOCK_SEQPACKET, 0),
    "AF_VSOCK": lambda: socket.socket(40, socket.SOCK_STREAM, 0),
    "audit socket": lambda: socket.socket(16, socket.SOCK_RAW, 9),
    "the API": connect(socket.AF_INET, ("127.0.0.1", PORT)),
    "the metadata service": connect(socket.AF_INET, ("169.254.169.254", 80)),
    "oom_score_adj": write("/proc/self/oom_score_adj", b"-1000"),
    "sysctl": write("/proc/sys/kernel/hostname", b"x"),
    "sysrq": write("/proc/sysrq-trigger", b"h"),
    "core pattern": write("/proc/sys/kernel/core_pattern", b"x"),
    "pressure": write("/proc/pressure/cpu", b"some 500000 2000000"),
    "interrupts": read("/proc/interrupts"),
    "kcore": read("/proc/kcore"),
    "host passwd": read("/etc/shadow"),
    "docker socket": connect(socket.AF_UNIX, "/run/docker.sock"),
}
result = {}
for name, attempt in TRIES.items():
    pid = os.fork()  # a separate process, so that each attempt affects only itself
    if pid == 0:
        try:
            attempt()
            code = 0
        except OSError as error:
            code = error.errno or 110
        except ValueError:
            code = 1
        os._exit(code)
    result[name] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(json.dumps(result))
