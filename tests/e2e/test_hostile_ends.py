"""Handlers that attack by the time of their end, by their output, and by the files in their
images.
"""

import io
import json
import re
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.hostile_setup import Ground, script, times
from e2e.sample_runtimes import add, pack
from e2e.server import Server

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def server(ground: Ground) -> Server:
    return ground.server


# B25: an end near the deadline ----------------------------------------------------------------


def test_an_end_at_the_deadline_is_one_end(server: Server) -> None:
    """The handler ends between 4 ms before its deadline and 3 ms after it. Either way, the
    invocation must have one outcome.
    """
    code = (
        "import os, time\nlate = (int(os.environ['QUILT_PAYLOAD']) - 4) / 1000\n"
        "end = int(os.environ['QUILT_DEADLINE_MS']) / 1000 + late\n"
        "while time.time() < end: time.sleep(0.0002)\n"
    )
    function = server.deploy(script(code), timeout_seconds=1, max_instances=8)
    ends: list[tuple[dict[str, Any], float]] = []

    def timed(number: int) -> tuple[dict[str, Any], float]:
        began = time.monotonic()
        return function.invoke(str(number)), time.monotonic() - began

    for _ in range(times(3, 250)):
        calls = [server.later(timed, number) for number in range(8)]
        ends += [one.result() for one in calls]
    records = function.records()
    for record, took in ends:
        kind = (record["status"], record["exit_code"])
        assert kind in (("success", 0), ("timeout", None)), record
        assert record["ended_at"] >= record["started_at"]
        assert record["duration_ms"] <= took * 1000 + 1
        if record["invocation_id"] in records:
            assert records[record["invocation_id"]] == record
    counts = {one: sum(r["status"] == one for r, _ in ends) for one in ("success", "timeout")}
    function.delete()
    print(f"{len(ends)} ends around the deadline: {counts}")


# B26: output that is dangerous to show --------------------------------------------------------

NASTY = (
    "\x1b[31m\x1b]0;x\x07<script>alert(1)</script>'; DROP TABLE invocation; --,=1+1\r\n\x9b\u202e"
)


def test_output_that_would_do_something_where_it_is_shown_is_data(ground: Ground) -> None:
    server = ground.server
    record = server.run("cat; cat >&2", NASTY, description=NASTY[7:20], name="nasty")
    assert record["stdout"] == NASTY
    function = server.deploy("cat; cat >&2")
    record = function.invoke(NASTY)
    answer = server.call("GET", f"{function.path}/invocations?limit=5")
    assert answer.headers["content-type"].startswith("application/json")
    assert function.records()[record["invocation_id"]]["stdout"] == NASTY
    assert "\x1b" not in server.log.read_text()
    function.delete()


# B27: setuid programs -------------------------------------------------------------------------

SETUID = r"""
import glob, json, os, stat, subprocess
def status(text): return [l for l in text.splitlines() if l.startswith(("Uid", "CapEff", "CapPrm"))]
own = status(open("/proc/self/status").read())
tops = ("/usr/bin", "/usr/sbin", "/usr/lib/*", "/app")
found = [one for top in tops for one in glob.glob(top + "/*")
         if os.path.isfile(one) and os.stat(one).st_mode & (stat.S_ISUID | stat.S_ISGID)]
told = []
for program in found:
    try:
        child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=-3, stderr=-3)
    except PermissionError:
        continue  # not for everybody
    try:
        with open(f"/proc/{child.pid}/status") as file: seen = status(file.read())
        if seen and seen != own: told.append([program, seen])
    except OSError as error: told.append([program, str(error)])
    child.kill(); child.wait()
try:
    with open("/usr/bin/sh", "rb") as a, open("/tmp/sh", "wb") as b: b.write(a.read())
    os.chmod("/tmp/sh", 0o6755)
    command = ["/tmp/sh", "-pc", "cat /proc/self/status"]
    made = subprocess.run(command, capture_output=True, text=True)
    if status(made.stdout) != own: told.append(["/tmp/sh", made.stdout])
    found.append("/tmp/sh")
except OSError as error: told.append(["/tmp/sh", str(error)])
print(json.dumps([len(found), told]))
"""


def test_a_setuid_program_gives_nothing(server: Server) -> None:
    record = server.run(script(SETUID), timeout_seconds=20)
    assert record["status"] == "success", record
    count, failures = json.loads(record["stdout"])
    assert count >= 2, "there is one of the host and one of the handler's own"
    assert failures == []
    print(f"{count} setuid and setgid programs, ids and capabilities the same")


# B24: hostile images --------------------------------------------------------------------------


def hostile_images() -> Iterator[tuple[str, bytes]]:
    for name, kind, target, mode in (
        ("dev", tarfile.SYMTYPE, "/dev", 0o777),
        ("../out", tarfile.REGTYPE, "", 0o644),
        ("/etc/x", tarfile.REGTYPE, "", 0o644),
        ("shadow", tarfile.LNKTYPE, "/etc/shadow", 0o644),
        ("sda", tarfile.BLKTYPE, "", 0o666),
        ("su", tarfile.REGTYPE, "", 0o4755),
        (".wh.x", tarfile.REGTYPE, "", 0o644),
    ):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, target, mode
            tar.addfile(info, io.BytesIO(b""))
        yield name, buffer.getvalue()


def test_hostile_images_are_refused_by_a_running_server(server: Server) -> None:
    headers = {"content-type": "application/x-tar"}
    for name, data in hostile_images():
        answer = server.http.post("/api/runtimes/images", content=data, headers=headers)
        assert answer.status_code == 422, name
        assert "refused" in answer.json()["error"]
    kept = [one.name for one in (server.data_dir / "images").iterdir()]
    assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in kept)
    good = server.http.post("/api/runtimes/images", content=pack({"a": "b"}), headers=headers)
    assert good.status_code in (200, 201)
    assert add(server, "python", {"mod.py": "def handler(): pass"})
