"""The limit of all sandboxes together: its values, and trees in which it is set and read back."""

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promises import promise
from quiltfn.launcher import cgroups, global_limit
from quiltfn.launcher.cgroups import V1, V2, CgroupsUnusable
from quiltfn.launcher.global_limit import GlobalLimit
from quiltfn.server.launch_context import BUDGET_SHARE

pytestmark = promise("F23")

GIB = 1 << 30
ANY = GlobalLimit(memory=GIB, tasks=1000)
V1_FILES = {
    "memory.limit_in_bytes": str(GIB),
    "memory.kmem.tcp.limit_in_bytes": str(GIB // 4),
    "memory.memsw.limit_in_bytes": str(GIB),
    "memory.use_hierarchy": "1",
}


@pytest.mark.parametrize(
    ("memory", "kept"), [(GIB, GIB // 4), (4 * GIB, GIB // 2), (100 * GIB, 10 * GIB)]
)
def test_what_is_kept_for_the_server_and_the_host(memory: int, kept: int) -> None:
    assert global_limit.of(memory=memory, pid_max=9, threads_max=9).memory == memory - kept


@given(st.integers(256 << 20, 1 << 44))
def test_what_instances_may_hold_by_default_fits_in(memory: int) -> None:
    made = global_limit.of(memory=memory, pid_max=9, threads_max=9).memory
    assert int(BUDGET_SHARE * (memory >> 20)) << 20 <= made <= 0.9 * memory


@pytest.mark.parametrize(("pid_max", "threads_max"), [(32_768, 192_730), (4_194_304, 32_768)])
def test_half_of_the_process_numbers_is_left(pid_max: int, threads_max: int) -> None:
    assert global_limit.of(memory=GIB, pid_max=pid_max, threads_max=threads_max).tasks == 16_384
    assert global_limit.of_this_machine().memory >= 256 << 20


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """The hierarchies of cgroups v1 as ordinary directories, with files like the kernel's."""
    for name in cgroups.V1_CONTROLLERS:
        (tmp_path / name / "quiltfn" / "s").mkdir(parents=True)
    for name in V1_FILES:
        (tmp_path / "memory" / "quiltfn" / name).write_text("1\n")
    (tmp_path / "pids" / "quiltfn" / "pids.max").write_text("max\n")
    return tmp_path


def groups_in(top: Path) -> V1:
    return V1({name: top / name for name in cgroups.V1_CONTROLLERS}, hybrid=True)


@pytest.mark.parametrize("swap", [True, False])
def test_v1_has_it_in_every_hierarchy(v1: Path, swap: bool) -> None:
    memory = v1 / "memory" / "quiltfn"
    if not swap:  # this kernel does not account for swap
        (memory / "memory.memsw.limit_in_bytes").unlink()
    sentence = global_limit.put_above(groups_in(v1), ANY)
    assert sentence == (
        "cgroup hybrid, all sandboxes together: 1024 MiB, 256 MiB of sockets, "
        "1000 processes and threads"
    )
    written = {file.name: file.read_text().strip() for file in memory.glob("memory.*")}
    expected = {name: value for name, value in V1_FILES.items() if swap or "memsw" not in name}
    assert written == expected
    assert (v1 / "pids" / "quiltfn" / "pids.max").read_text().strip() == "1000"


@pytest.mark.parametrize("before", ["9" * 19, "4096"], ids=["falling", "rising"])
def test_memory_bounds_swap_sums(v1: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    memory = v1 / "memory" / "quiltfn"
    for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        (memory / name).write_text(before)

    def write(file: Path, value: str) -> None:
        limit, total = (
            int(value if file.name == name else (memory / name).read_text())
            for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        )
        if total < limit:
            raise OSError(errno.EINVAL, "as the kernel has it")
        file.write_text(value)

    monkeypatch.setattr(global_limit, "write", write)
    global_limit.put_above(groups_in(v1), ANY)


@pytest.mark.parametrize(
    "name", ["memory.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes", "memory.use_hierarchy"]
)
def test_what_does_not_hold_is_named(v1: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def write(file: Path, value: str) -> None:
        if file.name == name:
            raise OSError(errno.EBUSY, "somebody is below it")
        file.write_text(value)

    (v1 / "memory" / "quiltfn" / name).write_text("0")
    monkeypatch.setattr(global_limit, "write", write)
    with pytest.raises(CgroupsUnusable, match=rf"no limit: [^;]*{name} is 0, not \d+$"):
        global_limit.put_above(groups_in(v1), ANY)
    if "tcp" in name:
        (v1 / "memory" / "quiltfn" / name).unlink()
        with pytest.raises(CgroupsUnusable, match=rf"{name} is not there, not 268435456"):
            global_limit.put_above(groups_in(v1), ANY)


@pytest.fixture
def v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parent group of a v2 tree of ordinary directories."""
    monkeypatch.setattr(cgroups, "MOUNT", tmp_path)
    monkeypatch.setattr(cgroups, "_delegated", lambda _: "/")
    (tmp_path / "quiltfn").mkdir()
    for name in ("memory.max", "memory.swap.max", "pids.max"):
        (tmp_path / "quiltfn" / name).write_text("")
    return tmp_path / "quiltfn"


def test_v2_counts_sockets_with_the_memory(v2: Path) -> None:
    sentence = global_limit.put_above(V2(), ANY)
    assert sentence == "cgroup v2, all sandboxes together: 1024 MiB, 1000 processes and threads"
    assert (v2 / "memory.max").read_text() == str(GIB)
    assert (v2 / "memory.swap.max").read_text() == "0"
    assert (v2 / "pids.max").read_text() == "1000"
