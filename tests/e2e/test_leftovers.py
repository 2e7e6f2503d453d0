"""Controls of `e2e/leftovers.py`: planted leftovers of each kind are found."""

import itertools
import subprocess
from pathlib import Path

import pytest

from e2e import leftovers
from promises import promise

pytestmark = [pytest.mark.sandbox, promise("F25")]
ID = "0badcafe"
UID = leftovers.UIDS[3 * 65_536 + 1000]


def test_it_finds_what_is_planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "servers").mkdir(parents=True)
    monkeypatch.setattr(leftovers, "UIDS_DIR", tmp_path)
    # the server that last used the first block of uids
    (tmp_path / "0").write_text(f"{run_dir}/servers/{ID}")
    before = leftovers.look(tmp_path, run_dir, {ID})
    assert not leftovers.nothing_since(before, tmp_path, run_dir, {ID}, 0)

    # The control group is deep in the first hierarchy that this machine has.
    top = Path("/sys/fs/cgroup")
    tree = next((top / one for one in ("memory", "unified") if (top / one).is_dir()), top)
    parent = tree / "quiltfn-oracle"
    group = parent / ID
    mounted = run_dir / "mounted"
    mounted.mkdir()
    own = run_dir / "servers" / ID
    process = subprocess.Popen(["/usr/bin/sleep", "60"], user=UID)
    named = subprocess.Popen(["/usr/bin/tail", "-f", "/dev/null", str(tmp_path / "missing")])
    try:
        group.mkdir(parents=True)
        own.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", mounted], check=True)
        left = leftovers.nothing_since(before, tmp_path, run_dir, {ID}, 0)
        others = leftovers.look(None, tmp_path / "elsewhere", {"feedbeef"}).since(before)
    finally:
        for child in (process, named):
            child.kill()
            child.wait()
        subprocess.run(["umount", mounted], check=False)
        for made in (group, parent, own):
            made.rmdir()

    kinds = sorted(one.split(" of uid")[0].split(" /")[0] for one in left)
    assert kinds == [
        "control group",
        "directory",
        "mount",
        *sorted(f"process {one.pid}" for one in (process, named)),
    ]
    assert not others, "what belongs to this server is no other one's"
    assert not leftovers.nothing_since(before, tmp_path, run_dir, {ID})


def test_a_namespace_is_found_if_it_is_the_servers_own(tmp_path: Path) -> None:
    """Other programs may create namespaces on the same machine at any time; those do not count."""
    before = leftovers.look(tmp_path, tmp_path / "run", {ID})
    names = (f"quiltfn-{ID}", "quiltfn-feedbeef")
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        left = leftovers.nothing_since(before, tmp_path, tmp_path / "run", {ID}, 0)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)
    own = leftovers.NETNS / names[0]
    assert left == [f"mount {own}", f"network namespace {own}"]


@pytest.mark.parametrize("left", [[], ["what stays"]], ids=["nothing", "something"])
def test_what_another_server_is_just_ending_at_each_look_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: list[str]
) -> None:
    pids = itertools.count()
    monkeypatch.setattr(
        leftovers, "look", lambda *_: leftovers.Traces(frozenset([*left, f"process {next(pids)}"]))
    )
    before = leftovers.Traces(frozenset())
    assert leftovers.nothing_since(before, tmp_path, tmp_path, (), 0.1) == left
