"""Fuzzes one of the server's parsers for some time: with atheris or, without it, at random.

Atheris instruments the modules, and keeps inputs that reach new code. Without it, kept inputs are
changed at random, and the code that they reach is not known. Started by `fuzz.frames`.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

WATCHED = ("guest/wire.py", "api/http/parse.py")
LONGEST = 4096
WORDS = [
    b"H",
    b"P",
    b"O",
    b"E",
    b"T",
    b"X",
    b"Z",
    b"\0\0\0",
    b"\x08\0\0\0",
    b"\x09\0\0\0",
    b"\0" * 8,
]
WORDS += [
    b'"',
    b"[",
    b"]",
    b"{",
    b"}",
    b":",
    b",",
    b"\\u",
    b"\\ud800",
    b"1e9",
    b"-",
    b"null",
    b"NaN",
]
WORDS += [b'"name":"a"', b'"handler":"b"', b'"environment":{"A":"b"}', b'"max_instances":1']


def with_atheris(name: str, corpus: Path, kept: Path, seconds: int, findings: Path) -> None:
    """Does not return: the fuzzer ends the process, with a status of its own."""
    import atheris  # type: ignore[import-untyped]  # noqa: PLC0415

    with atheris.instrument_imports(include=["quiltfn.guest.wire", "quiltfn.api.http.parse"]):
        from fuzz import targets  # noqa: PLC0415
    words = write_words(corpus.parent / f"{name}.words", WORDS)
    flags = [f"-max_total_time={seconds}", f"-artifact_prefix={findings}/{name}-"]
    flags += [f"-max_len={LONGEST}", "-timeout=20", "-rss_limit_mb=1024", "-print_final_stats=1"]
    atheris.Setup(
        [sys.argv[0], *flags, f"-dict={words}", str(corpus), str(kept)], targets.TARGETS[name]
    )
    atheris.Fuzz()


def write_words(path: Path, words: list[bytes]) -> Path:
    """Writes a dictionary for libFuzzer: one word per line, each byte as a hexadecimal escape."""
    lines = ["".join(f"\\x{byte:02x}" for byte in word) for word in words]
    path.write_text("".join(f'"{line}"\n' for line in lines))
    return path


def by_chance(name: str, kept: Path, seconds: int, findings: Path, seed: int) -> int:
    """The number of findings; the figures are printed as libFuzzer prints them."""
    from fuzz.targets import TARGETS  # noqa: PLC0415

    chance, runs, found = random.Random(seed), 0, 0
    seeds = [path.read_bytes() for path in sorted(kept.iterdir())] or [b""]
    until = time.monotonic() + seconds
    while time.monotonic() < until and not found:
        data = changed(seeds, chance)
        runs += 1
        try:
            TARGETS[name](data)
        except Exception:
            found = 1
            traceback.print_exc()
            (findings / f"{name}-crash-{seed}-{runs}").write_bytes(data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"stat::number_of_executed_units: {runs}\nstat::peak_rss_mb: {peak}", file=sys.stderr)
    return found


def changed(seeds: list[bytes], chance: random.Random) -> bytes:
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(1, 8)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1:
                data[at:at] = chance.choice(WORDS)
            case 2:
                del data[at : at + chance.randrange(1, 16)]
            case 3:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 4:
                other = chance.choice(seeds)
                data[at:] = other[chance.randrange(len(other) + 1) :]
            case _:
                data[at:at] = data[at : at + 64] * chance.randrange(1, 4)
    return bytes(data[:LONGEST])


# ------------------------------------------------------------------------ -- inputs worth keeping


def reached(run: Callable[[bytes], None], data: bytes) -> set[tuple[str, int, int]]:
    """The steps from line to line that the watched modules took."""
    steps: set[tuple[str, int, int]] = set()
    last: dict[CodeType, int] = {}

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            code = frame.f_code
            steps.add((code.co_filename, last.get(code, 0), frame.f_lineno))
            last[code] = frame.f_lineno
        return local

    def entered(frame: FrameType, *_: Any) -> Any:
        return local if frame.f_code.co_filename.endswith(WATCHED) else None

    sys.settrace(entered)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return steps


def worth_keeping(name: str, known: Path, folders: list[Path]) -> Iterator[Path]:
    """The shortest inputs that together reach what the known ones do not."""
    from fuzz.targets import TARGETS  # noqa: PLC0415

    seen: set[tuple[str, int, int]] = set()
    for path in known.iterdir():
        seen |= reached(TARGETS[name], path.read_bytes())
    paths = [path for folder in folders for path in folder.iterdir()]
    for path in sorted(paths, key=lambda file: (file.stat().st_size, file.name)):
        steps = reached(TARGETS[name], path.read_bytes())
        if not steps <= seen:
            seen |= steps
            yield path


def main() -> int:
    it = argparse.ArgumentParser(description=__doc__)
    it.add_argument("name")
    for place in ("corpus", "kept", "findings"):
        it.add_argument(place, type=Path)
    it.add_argument("seconds", type=int)
    it.add_argument("--by-chance", action="store_true")
    given = it.parse_args()
    if given.by_chance:
        return by_chance(given.name, given.kept, given.seconds, given.findings, int(time.time()))
    with_atheris(given.name, given.corpus, given.kept, given.seconds, given.findings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
