"""Fuzzes one of the server's parsers with atheris, which instruments the modules and keeps inputs
that reach new code. `fuzz.frames` starts this program.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

WATCHED = ("guest/wire.py", "api/http/parse.py")
LONGEST = 4096
WORDS = [bytes([kind]) for kind in b"HPOETXZ"]
WORDS += [b"\0\0\0", b"\x08\0\0\0", b"\x09\0\0\0", b"\0" * 8]
WORDS += [bytes([mark]) for mark in b'"[]{}:,-']
WORDS += [b"\\u", b"\\ud800", b"1e9", b"null", b"NaN"]
WORDS += [b'"name":"a"', b'"handler":"b"', b'"environment":{"A":"b"}', b'"max_instances":1']


def with_atheris(name: str, corpus: Path, kept: Path, seconds: int, findings: Path) -> None:
    """Run atheris. It never returns, but ends the process with its own status."""
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
    """Write a dictionary for libFuzzer: one word per line, each byte as a hexadecimal escape."""
    lines = ["".join(f"\\x{byte:02x}" for byte in word) for word in words]
    path.write_text("".join(f'"{line}"\n' for line in lines))
    return path


# ------------------------------------------------------------------------ inputs worth keeping


def reached(run: Callable[[bytes], None], data: bytes) -> set[tuple[str, int, int]]:
    """The steps from one line to the next in the watched modules, while `run` gets `data`."""
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
    """The shortest inputs that together reach all code that the known inputs do not reach."""
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


def main() -> None:
    it = argparse.ArgumentParser(description=__doc__)
    it.add_argument("name")
    for place in ("corpus", "kept", "findings"):
        it.add_argument(place, type=Path)
    it.add_argument("seconds", type=int)
    given = it.parse_args()
    with_atheris(given.name, given.corpus, given.kept, given.seconds, given.findings)


if __name__ == "__main__":
    main()
