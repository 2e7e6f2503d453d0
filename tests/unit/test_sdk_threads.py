"""Several threads may use one client: their first responses of a type arrive at the same time."""

import subprocess
import sys

# This script decodes nested types, which are slow to inspect, in four threads at once.
SCRIPT = """
import sys, threading, types
import msgspec
from quiltfn.sdk.decoding import decode

sys.setswitchinterval(1e-5)
source = ["from __future__ import annotations", "import msgspec"]
for depth in range(40):
    source += [f"class S{depth}(msgspec.Struct):"]
    source += [f"    inner: S{max(depth - 1, 0)} | None = None"]
    source += [f"    field_{number}: int | None = None" for number in range(30)]
sys.modules["shapes"] = shapes = types.ModuleType("shapes")
exec("\\n".join(source), shapes.__dict__)
decoders = {
    "ours": lambda data: decode(data, shapes.S39),
    "msgspec": lambda data: msgspec.json.Decoder(shapes.S39).decode(data),
}
begin = threading.Barrier(4)

def read():
    begin.wait()
    decoders[sys.argv[1]](b'{"field_29":1,"inner":{"field_29":2,"inner":{"field_28":3}}}')

threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def codes(decoder: str) -> list[int]:
    command = [sys.executable, "-c", SCRIPT, decoder]
    tries = [
        subprocess.run(command, check=False, capture_output=True, timeout=60) for _ in range(3)
    ]
    return [done.returncode for done in tries]


def test_threads_that_decode_the_same_for_the_first_time_do_not_crash() -> None:
    """`quiltfn deploy` reads the server's state in threads, and used to crash."""
    assert codes("ours") == [0, 0, 0]


def test_negative_control_msgspec_alone_crashes() -> None:
    """If this fails, msgspec creates decoders safely, and `sdk/decoding.py` is not needed."""
    assert any(code < 0 for code in codes("msgspec"))
