"""Runs third-party programs and libraries, unmodified, as functions of a real server.

`scripts/soak workloads` creates the base images of `e2e.workloads` by mmdebstrap, adds each
workload as a user does, invokes it cold, warm and four at a time, and compares its output. It
prints a table in Markdown, and fails if a result differs from the expected one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from e2e import workloads
from e2e.server import Function, Server, quiltfn, until, watched
from e2e.workloads import Workload

# the time limit for all workloads; those that have not started by then have failed
SECONDS_MAX = 25 * 60
DISK_GIB = 10  # the free space that images, packages and their sources need
COMMAND_S = 300  # the time limit for creating an image or installing packages
CALL_S = 60
WARM_CALLS, CALLERS = 3, 4
PAYLOAD = '{"price": 2.5}'
MEMORY_PEAK = ("memory.peak", "memory.max_usage_in_bytes")
CGROUPS = Path("/sys/fs/cgroup")
# Instances end soon, so that there are cold starts; invocations may wait long for them. All images
# belong to one tenant.
OPTIONS = f"--idle-s 2 --park-s 0 --queue-wait-s 60 --tenant-image-bytes {10 * 1024**3}"
FAILURES = (AssertionError, httpx.HTTPError, subprocess.SubprocessError, OSError)


@dataclass
class Image:
    """A base image: how long it took to create and to add, its size, and its Debian release."""

    name: str
    archive: Path
    make_s: float
    mib: float
    versions: dict[str, str]
    add_s: float = 0.0
    digest: str = ""

    def row(self) -> str:
        packages = ", ".join(f"{one} {self.versions[one]}" for one in workloads.IMAGES[self.name])
        return (
            f"| {self.name} | {packages} | {self.mib:.0f} | {self.make_s:.0f} | {self.add_s:.0f} |"
        )


@dataclass
class Seen:
    """The measurements of a workload. `wrong`: why an invocation failed."""

    work: Workload
    packages: str
    add_s: float = 0.0
    cold_ms: float = 0.0
    warm_ms: float = 0.0
    calls_per_s: float = 0.0
    memory_mib: float = 0.0
    notes: list[str] = field(default_factory=list)
    wrong: str = ""

    @property
    def is_as_known(self) -> bool:
        """Whether the workload ran or, if it is known not to work, failed for the known reason."""
        return self.work.cannot in self.wrong if self.work.cannot else not self.wrong

    def row(self) -> str:
        names = f"| {self.work.name} | {self.work.does} | {self.packages} | {self.add_s:.1f} "
        if self.work.cannot and self.is_as_known:
            return f"{names}| | | | | does not run: {self.work.why} |"
        if self.wrong:
            return f"{names}| | | | | **failed**: {self.wrong[-400:].replace('|', '/')} |"
        figures = f"| {self.cold_ms:.0f} | {self.warm_ms:.0f} | {self.calls_per_s:.1f} "
        result = "runs though it should not" if self.work.cannot else "passed"
        return f"{names}{figures}| {self.memory_mib:.0f} | {result} |"


def image(place: Path, name: str) -> Image:
    """Creates the image with mmdebstrap, which installs nothing on this machine."""
    archive, began = place / f"{name}.tar", time.monotonic()
    wanted = ",".join(workloads.IMAGES[name])
    command = ["mmdebstrap", "--quiet", "--variant=essential", f"--include={wanted}"]
    command += [workloads.SUITE, str(archive)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=COMMAND_S, check=False, cwd=place
    )
    assert done.returncode == 0, f"mmdebstrap: {done.stderr.strip()[-300:]}"
    with tarfile.open(archive) as tar:
        status = tar.extractfile("./var/lib/dpkg/status")
        assert status is not None
        text = status.read().decode()
    versions = dict(re.findall(r"^Package: (\S+)\n(?:\S.*\n| .*\n)*?Version: (\S+)$", text, re.M))
    mib = archive.stat().st_size / 2**20
    return Image(name, archive, time.monotonic() - began, mib, versions)


def command(server: Server, *words: str) -> str:
    done = quiltfn(*words, "--url", server.url, timeout_s=COMMAND_S)
    assert done.code == 0, f"quiltfn {' '.join(words[:3])}: {done.stderr.strip()[-300:]}"
    return done.stdout


def add_image(server: Server, made: Image) -> None:
    began = time.monotonic()
    words = ("--kind", "shell", "--rootfs", str(made.archive), "--output", "json")
    made.digest = json.loads(command(server, "runtimes", "add", made.name, *words))["base_image"]
    made.add_s = time.monotonic() - began
    made.archive.unlink()


def add(server: Server, directory: Path, work: Workload, base: str) -> str:
    """Adds the runtime with its code and packages; returns its name."""
    directory.mkdir()
    for name, text in work.files.items():
        (directory / name).write_text(text)
    if requirements := work.of("=="):
        (directory / "requirements.txt").write_text("\n".join(requirements))
    if dependencies := dict(one.rsplit("@", 1) for one in work.of("@")):
        manifest = {"name": "workload", "version": "1.0.0", "dependencies": dependencies}
        (directory / "package.json").write_text(json.dumps(manifest))
    name = directory.name
    words = ["--kind", work.kind, "--dir", str(directory)]
    command(server, "runtimes", "add", name, *words, *(["--base-image", base] if base else []))
    return name


def deploy(server: Server, work: Workload, runtime: str) -> tuple[Function, dict[str, Any]]:
    function = server.create(
        work.handler,
        name=runtime,
        runtime=runtime,
        memory_limit_mb=work.memory_mib,
        timeout_seconds=CALL_S,
        max_instances=CALLERS,
        cleanup_on_exit=work.kind != "server",
    )
    return function, function.deploy()


def timed_call(function: Function, work: Workload) -> tuple[float, dict[str, Any]]:
    """Invokes the workload; returns the milliseconds and the record, which must be a success with
    the expected output.
    """
    began = time.monotonic()
    record = function.invoke(PAYLOAD)
    took_ms = 1000 * (time.monotonic() - began)
    said = f"{record['error_message']}: {record['stderr'].strip()}"
    assert record["status"] == "success", said
    # The body of a web server's response follows its head and eight NULs.
    printed = record["stdout"].rpartition("\0")[2]
    assert printed == work.prints, f"printed {printed[:200]!r}, not {work.prints!r}"
    return took_ms, record


def call(server: Server, function: Function, seen: Seen, calls: int) -> None:
    work = seen.work
    until(lambda: function.pool()["total_count"] == 0, 30)
    seen.cold_ms, record = timed_call(function, work)
    assert record["cold_start"], "the first call had an instance already"
    seen.warm_ms = statistics.median(timed_call(function, work)[0] for _ in range(WARM_CALLS))
    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(lambda _: timed_call(function, work), range(calls)))
    seen.calls_per_s = calls / (time.monotonic() - began)
    seen.memory_mib = max(peaks(server), default=0) / 2**20


def peaks(server: Server) -> Iterator[int]:
    """The kernel's peak of memory for each sandbox that exists."""
    top = CGROUPS / "memory" if (CGROUPS / "memory").is_dir() else CGROUPS
    for name in MEMORY_PEAK:
        for path in (top / "quiltfn" / server.id).glob(f"*/{name}"):
            yield int(path.read_text())


def played(server: Server, place: Path, work: Workload, base: Image | None, calls: int) -> Seen:
    """Runs one workload, from the installation of its packages to its last invocation."""
    versions = base.versions if base else {}
    named = (f"{one} {versions[one]}" if one in versions else one for one in work.packages)
    seen = Seen(work, ", ".join(named))
    try:
        began = time.monotonic()
        runtime = add(server, place / work.slug, work, base.digest if base else "")
        seen.add_s = time.monotonic() - began
        function, state = deploy(server, work, runtime)
        seen.notes = [state["note"]] if state.get("note") else []
        assert state["state"] == "active", state["error_message"]
        call(server, function, seen, calls)
        function.delete()
    except FAILURES as error:
        seen.wrong = in_a_line(error)
    return seen


def in_a_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def run(chosen: Sequence[Workload], calls: int) -> Iterator[Image | Seen]:
    """Adds every base image and runs every workload, ordered by image."""
    end = time.monotonic() + SECONDS_MAX
    with tempfile.TemporaryDirectory(prefix="quiltfn-workloads-", dir="/var/tmp") as made:
        place = Path(made)
        free = shutil.disk_usage(place).free >> 30
        assert free >= DISK_GIB, f"/var/tmp has {free} GiB free, and needs {DISK_GIB}"
        # A new directory has no cached data.
        for cache in ("UV_CACHE_DIR", "npm_config_cache"):
            os.environ[cache] = str(place / "cache" / cache)
        with watched(OPTIONS) as server:
            server.start()
            for name in sorted({one.image for one in chosen}):
                base, wrong = None, ""
                try:
                    if name:
                        base = image(place, name)
                        add_image(server, base)
                        yield base
                except FAILURES as error:
                    wrong = in_a_line(error)
                for work in (one for one in chosen if one.image == name):
                    if time.monotonic() > end:
                        wrong = f"had not begun after {SECONDS_MAX} s"
                    if wrong:
                        yield Seen(work, ", ".join(work.packages), wrong=wrong)
                    else:
                        yield played(server, place, work, base, calls)


def main() -> int:
    it = argparse.ArgumentParser(prog="scripts/soak workloads", description=__doc__)
    names = [one.name for one in workloads.ALL]
    it.add_argument("--calls", type=int, default=8, help="four at a time")
    it.add_argument("--name", action="append", choices=names, help="only this one; repeatable")
    given = it.parse_args()
    began, images, all_seen = time.monotonic(), [], []
    for result in run([w for w in workloads.ALL if w.name in (given.name or names)], given.calls):
        print(result.row(), file=sys.stderr, flush=True)
        if isinstance(result, Image):
            images.append(result)
        else:
            all_seen.append(result)
    print("| base image | packages | MiB | made, s | added, s |\n|---|---|---|---|---|")
    print("\n".join(one.row() for one in images))
    print("\n| workload | what an invocation does | packages | added, s | cold, ms ", end="")
    print(f"| warm, ms | invocations/s, {CALLERS} at a time | MiB | result |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(one.row() for one in all_seen))
    for note in sorted({f"{one.work.name}: {note}" for one in all_seen for note in one.notes}):
        print(f"\n{note}")
    wrong = [one.work.name for one in all_seen if not one.is_as_known]
    print(f"\n{len(all_seen) - len(wrong)} as known, {len(wrong)} not, ", end="")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
