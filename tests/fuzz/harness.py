"""Builds the guest and the native module as a program for a fuzzer, and as one that replays the
stored inputs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from sandbox.bare_guest import SOURCE, STRICT

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
HARNESS = [HERE / "guest_fuzz.c", HERE / "shell_fuzz.c", HERE / "native_fuzz.c"]
NATIVE = SOURCE.parent / "native"
# The numbered version comes first, since it is known to build fuzzers.
COMPILERS = ("clang-19", "clang")
# The share of the time for each target. A guest's whole life (`session`) gets most, since most can
# be found there.
GUEST_TARGETS = {"specialise": 1, "prepare": 1, "call": 1, "script": 1, "block": 1}
GUEST_TARGETS |= {"shell": 2, "request": 1, "reply": 1, "session": 6}
PARSER_TARGETS = {"decoder": 2, "json": 2, "long-json": 1}
CHECKED = ["-g", "-fno-sanitize-recover=all"]
# Reports of leaks are off, since they would hide more important findings.
QUIET = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}


def build_fuzzer(compiler: str, target: Path) -> None:
    how = ["-O1", "-fsanitize=fuzzer,address,undefined"]
    _build([compiler, *STRICT, *CHECKED, *how], target, SOURCE)


def build_replay(target: Path, guest: Path = SOURCE) -> Path:
    # Compiling takes most of the time, so nothing is optimized.
    how = ["-O0", "-fsanitize=address,undefined", "-DREPLAY"]
    _build(["cc", *STRICT, *CHECKED, *how], target, guest)
    return target


def build_control(target: Path, guest: Path, file: str, unchanged: Path) -> Path:
    """Build the replay of a guest that has a mistake in `file`. Checks for undefined behaviour are
    left out: the mistakes are found without them, and they take half of the time. `unchanged`: a
    directory for the other files, which are compiled once.
    """
    command = ["cc", *STRICT, "-O0", "-fsanitize=address"]
    halves = []
    own = "native" if (NATIVE / file).exists() else file.removesuffix(".c")
    changed = {"shell": "shell_fuzz.c", "native": "native_fuzz.c"}.get(own, "guest_fuzz.c")
    for half in HARNESS:
        is_in_it = file.endswith(".h") or half.name == changed
        halves.append((target.parent if is_in_it else unchanged) / half.with_suffix(".o").name)
        if not halves[-1].exists():
            source = guest if is_in_it else SOURCE
            _build([*command, "-DREPLAY", "-c"], halves[-1], source, [half])
    subprocess.run([*command, "-o", target, *halves], check=True)
    return target


def _build(
    command: Sequence[str], target: Path, guest: Path, files: Sequence[Path] = HARNESS
) -> None:
    where = ["-I", guest, "-I", guest.parent / "native"]
    where += [f'-DSHELL_SOURCE="{guest / "shell.c"}"']
    subprocess.run([*command, *where, "-o", target, *files], check=True)  # type: ignore[list-item]


def can_build(compiler: str, directory: Path) -> bool:
    """Whether the compiler can build fuzzers: it may lack the libraries for them."""
    if shutil.which(compiler) is None:
        return False
    source = directory / "probe.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdint.h>\n"
        "int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);\n"
        "int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)\n"
        "{\n    (void)data;\n    (void)size;\n    return 0;\n}\n"
    )
    command = [compiler, "-fsanitize=fuzzer,address", "-o", directory / "probe", source]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # type: ignore[arg-type]


def as_target(name: str) -> dict[str, str]:
    return os.environ | QUIET | {"QUILTFN_FUZZ_TARGET": name}


def replay(program: Path, name: str, inputs: Iterable[Path]) -> subprocess.CompletedProcess[str]:
    """Replay the inputs. If the program fails, the last line of its output names the input that it
    read.
    """
    return subprocess.run(
        [program, *inputs],
        env=as_target(name),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )


def kept(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


def with_mistake(directory: Path, file: str, right: str, mistaken: str) -> Path:
    """A copy of the guest's sources, beside one of the native module's, in which `mistaken`
    replaces `right`.
    """
    for source in (SOURCE, NATIVE):
        copy = directory / source.name
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("bin", "runners", "*.py*"))
        if (copy / file).exists():
            text = (copy / file).read_text()
            assert text.count(right) == 1, f"{file} has {right!r} {text.count(right)} times"
            (copy / file).write_text(text.replace(right, mistaken))
    return directory / SOURCE.name
