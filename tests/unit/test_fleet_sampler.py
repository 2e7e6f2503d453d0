"""The sampler of a fleet notices if there is one instance too many, and counts only instances."""

from pathlib import Path

from fleet.sampler import MIB, Bounds, sandboxes
from promises import promise

pytestmark = promise("N70")

NAME = "0123456789abcdef01234"


def group(home: Path, number: int, mib: int, processes: str = "7\n") -> Path:
    made = home / f"{NAME}{number:03}"
    made.mkdir(parents=True, exist_ok=True)
    (made / "cgroup.procs").write_text(processes)
    (made / "memory.max").write_text(f"{mib * MIB}\n")
    return made


def test_instances_of_a_function_are_counted_over_all_nodes(tmp_path: Path) -> None:
    bounds = Bounds()
    bounds.most = {301: 2, 302: 1}
    first, second = tmp_path / "one", tmp_path / "two"
    for home, number, mib in ((first, 1, 301), (second, 2, 301), (second, 3, 302), (first, 4, 64)):
        group(home, number, mib)
    group(first, 5, 301, processes="")  # this instance has ended
    (first / "short").mkdir()
    bounds.count(sandboxes([first, second]))
    assert (bounds.exceeded, bounds.seen[301], bounds.seen[302]) == (0, 2, 1)
    group(first, 6, 301)
    bounds.count(sandboxes([first, second]))
    assert (bounds.exceeded, bounds.seen[301]) == (1, 3)
    assert "3 of 2 at a time" in bounds.examples[0]
