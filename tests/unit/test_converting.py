"""Threads that convert to a type for the first time at the same moment do not crash the process."""

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, threading
from typing import Optional
import msgspec
from quiltfn.model.converting import convert
sys.setswitchinterval(1e-6)
for _ in range(300):
    fields = [(f"f{number}", Optional[int], None) for number in range(30)]
    inner = msgspec.defstruct("Inner", fields)
    kind = msgspec.defstruct("Kind", [("inner", Optional[inner], None), *fields])
    all_at = threading.Barrier(4)
    found = []
    def work():
        all_at.wait()
        found.append(convert({"f1": 1, "inner": {"f2": 2}}, kind))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [one.inner.f2 for one in found] == [2] * 4
"""


def test_threads_may_convert_to_a_new_type_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# These convert only in the event loop's thread, to types that no other thread uses by then.
ONE_THREAD = {"wire/check.py", "server/launch_context.py"}


def test_nothing_else_converts() -> None:
    source = Path(__file__).parents[2] / "src/quiltfn"
    found = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if re.search(r"msgspec\.convert\(", path.read_text())
    }
    assert found == ONE_THREAD | {"model/converting.py"}
