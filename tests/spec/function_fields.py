"""The fields of a function that a client can set, according to the contract."""

from dataclasses import dataclass
from typing import Any

REQUIRED = object()
BIG = "x" * (32 * 1024)


@dataclass
class SettableField:
    """A field that clients can set. `types`: its JSON types. `good`, `bad`: values within and
    beyond its limits.
    """

    types: set[str]
    good: list[Any]
    bad: list[Any]
    default: Any = REQUIRED


FIELDS = {
    "name": SettableField(
        types={"string"},
        good=["a", "A-b.c_9", "x" * 64],
        bad=["", "-a", "a-", ".a", "a_", "a b", "a/b", "ä", "x" * 65, "a\n"],
    ),
    "handler": SettableField(
        types={"string"},
        good=["x", "x" * 65536],
        bad=["", "x" * 65537, "é" * 32769, "a\0b"],
    ),
    "runtime": SettableField(types={"string"}, default="shell", good=["shell"], bad=["cobol", ""]),
    "cluster_id": SettableField(
        types={"string", "null"}, default=None, good=["x" * 128, None], bad=["x" * 129]
    ),
    "description": SettableField(
        types={"string", "null"}, default=None, good=["é" * 1024, "", None], bad=["x" * 1025]
    ),
    "memory_limit_mb": SettableField(types={"int"}, default=256, good=[256, 512], bad=[255, 10**9]),
    "cpu_limit_percent": SettableField(
        types={"int", "float"}, default=100.0, good=[1, 12.5, 100.0], bad=[0.99, 100 * 1024]
    ),
    "timeout_seconds": SettableField(types={"int"}, default=30, good=[1, 86_400], bad=[0, 86_401]),
    "environment": SettableField(
        types={"object"},
        default={},
        good=[{"A_1": "", "_": "ü"}, {"A": BIG[3:]}],
        bad=[
            *({name: "x"} for name in ("", "1A", "A=B", "A B", "Ä", "QUILT_X", "A\0")),
            *({"A": value} for value in ("x\0", "***", BIG, 1)),
            None,
        ],
    ),
    "min_instances": SettableField(types={"int"}, default=0, good=[5], bad=[-1, 6]),
    "max_instances": SettableField(types={"int"}, default=5, good=[1, 1000], bad=[0, 1001]),
    "cleanup_on_exit": SettableField(types={"bool"}, default=True, good=[False], bad=["true", 1]),
    "working_directory": SettableField(
        types={"string", "null"},
        default=None,
        good=["/", "/app/x", "/" + "x" * 1023, "/processes", None],
        bad=[
            *("", "app", "/a/", "/a//b", "/a/../b", "/./a", "/a\0", "/" + "x" * 1024),
            *("/proc", "/proc/1/root", "/proc/self/cwd", "/sys/fs/cgroup", "/dev/shm", "//"),
        ],
    ),
}
