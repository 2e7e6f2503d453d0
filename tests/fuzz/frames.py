"""Fuzzes the parsers on both sides of a sandbox's socket: `scripts/soak frames`.

libFuzzer with AddressSanitizer and UBSan fuzzes the guest's parsers, and atheris the server's. All
run in parallel, each for the given minutes, and start from the inputs in `tests/fuzz/corpus`. An
input that breaks a promise is left in a separate directory, which is printed; everything else is
removed at the end.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzz import harness, python_side

ATHERIS = "atheris==3.1.0"
# The maximum length of inputs. They can be short, since a session is a list of events, and a frame
# can specify its growth.
LONGEST = 1024
MOST_KEPT = {"session": 110, "shell": 55, "request": 32}
MOST_KEPT_OF_OTHERS = 18
# Messages of a runner, from which the fuzzers build inputs.
WORDS = [b"ready ", b"result stdout\n", b"refused ", b"done 1 exited 0", b"done 2 ", b"killed 9"]
WORDS += [b" 65536", b"\n", b"forks ahead\n"]
OF_A_FUZZER = re.compile(r"[0-9a-f]{40}")


@dataclass
class Result:
    """The result of fuzzing one target."""

    name: str
    executions: int = 0
    edges: int = 0
    features: int = 0
    inputs: int = 0
    peak_mib: int = 0
    findings: int = 0
    said: str = ""

    def __str__(self) -> str:
        reach = f"{self.edges} edges, {self.features} features, {self.inputs} inputs"
        return (
            f"{self.name}: {self.executions} executions, {reach}, {self.findings} findings, "
            f"peak {self.peak_mib} MiB"
        )


@dataclass
class Directories:
    """The directories of a run: `work` is removed at the end, `findings` only if it is empty."""

    work: Path
    findings: Path

    def corpus(self, name: str) -> Path:
        path = self.work / "corpus" / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def run(
    name: str, command: list[str], directories: Directories, env: dict[str, str] | None = None
) -> Result:
    done = subprocess.run(
        command,
        env=env,
        cwd=directories.work,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    said = done.stdout + done.stderr
    result = Result(
        name,
        executions=last(r"stat::number_of_executed_units: (\d+)", said),
        edges=last(r"cov: (\d+)", said),
        features=last(r"ft: (\d+)", said),
        inputs=last(r"corp: (\d+)", said),
        peak_mib=last(r"stat::peak_rss_mb: *(\d+)", said),
        findings=len(list(directories.findings.glob(f"{name}-*"))),
    )
    if result.findings or done.returncode != 0 or not result.executions:
        result.findings = max(1, result.findings)
        result.said = said[-6000:]
    return result


def guest_side(directories: Directories, fuzzer: Path, seconds: int) -> list[Result]:
    results = []
    words = python_side.write_words(directories.work / "words", WORDS)
    for name, own in shares(harness.GUEST_TARGETS, seconds).items():
        flags = [f"-max_total_time={own}", f"-artifact_prefix={directories.findings}/{name}-"]
        flags += [f"-max_len={LONGEST}", "-timeout=20", "-rss_limit_mb=1024"]
        flags += ["-print_final_stats=1", "-detect_leaks=0", f"-dict={words}"]
        corpora = [str(directories.corpus(name)), str(harness.CORPUS / name)]
        command = [str(fuzzer), *flags, *corpora]
        results.append(run(name, command, directories, harness.as_target(name)))
        if results[-1].findings:
            results[-1].said = explain(name, directories) or results[-1].said
        print(results[-1], flush=True)
    return results


def explain(name: str, directories: Directories) -> str:
    """The report on a finding, from a program whose sanitizer names lines. Empty if the finding
    does not recur.
    """
    program = harness.build_replay(directories.work / "replay")
    found = sorted(directories.findings.glob(f"{name}-*"))
    done = harness.replay(program, name, found)
    return f"{done.stdout}\n{done.stderr[:6000]}" if done.returncode != 0 else ""


def parser_side(directories: Directories, atheris: Path, seconds: int) -> list[Result]:
    results = []
    for name, own in shares(harness.PARSER_TARGETS, seconds).items():
        places = [directories.corpus(name), harness.CORPUS / name, directories.findings]
        command = [sys.executable, "-m", "fuzz.python_side", name, *map(str, places), str(own)]
        paths = f"{harness.HERE.parent}:{atheris}"
        results.append(
            run(name, command, directories, harness.as_target(name) | {"PYTHONPATH": paths})
        )
        print(results[-1], flush=True)
    return results


def install_atheris(library: Path) -> str:
    """Install atheris; return why that failed, or an empty text."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--no-deps", "--target", str(library), ATHERIS],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["pip failed"])[-1]
    probe = [sys.executable, "-c", "import atheris"]
    env = harness.as_target("") | {"PYTHONPATH": str(library)}
    done = subprocess.run(probe, env=env, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no module"])[-1]


def shares(targets: dict[str, int], seconds: int) -> dict[str, int]:
    parts = sum(targets.values())
    return {name: max(1, seconds * part // parts) for name, part in targets.items()}


# ----------------------------------------------------------------------------------- stored inputs


def keep(directories: Directories, fuzzer: Path) -> None:
    """Replace the stored inputs by the fewest that reach the same code. Named inputs stay."""
    for name in harness.GUEST_TARGETS | harness.PARSER_TARGETS:
        old, new = harness.CORPUS / name, directories.work / "kept" / name
        new.mkdir(parents=True)
        for path in old.iterdir():
            if not OF_A_FUZZER.fullmatch(path.name):
                shutil.copy(path, new)
        most = MOST_KEPT.get(name, MOST_KEPT_OF_OTHERS)
        if name in harness.GUEST_TARGETS:
            merge(name, fuzzer, [new, old, directories.corpus(name)])
        else:
            for path in python_side.worth_keeping(name, new, [old, directories.corpus(name)]):
                shutil.copy(path, new)
        found = [one for one in new.iterdir() if OF_A_FUZZER.fullmatch(one.name)]
        named = len(list(new.iterdir())) - len(found)
        for path in sorted(found, key=lambda path: path.stat().st_size)[max(0, most - named) :]:
            path.unlink()
        shutil.rmtree(old)
        shutil.copytree(new, old)
        print(f"{name}: {len(list(old.iterdir()))} inputs are kept")


def merge(name: str, fuzzer: Path, folders: list[Path]) -> None:
    # Count only which edges are reached, not how often; otherwise, hundreds of inputs would be
    # stored.
    flags = ["-merge=1", "-use_counters=0", "-detect_leaks=0"]
    subprocess.run(
        [fuzzer, *flags, *folders],
        env=harness.as_target(name),
        cwd=folders[0].parent,
        capture_output=True,
        check=True,
    )


def soak(minutes: float, is_kept: bool) -> int:
    findings = Path(tempfile.mkdtemp(prefix="quiltfn-findings-"))
    with tempfile.TemporaryDirectory(prefix="quiltfn-frames-") as work:
        directories = Directories(Path(work), findings)
        compiler = next(
            (c for c in harness.COMPILERS if harness.can_build(c, directories.work)), None
        )
        if compiler is None:
            print("no clang here builds fuzzers: install clang-19 and libclang-rt-19-dev")
            findings.rmdir()
            return 2
        atheris = directories.work / "atheris"
        if why_not := install_atheris(atheris):
            print(f"atheris can't be installed: {why_not}")
            findings.rmdir()
            return 2
        fuzzer = directories.work / "guest_fuzz"
        harness.build_fuzzer(compiler, fuzzer)
        results = side_by_side(
            lambda: guest_side(directories, fuzzer, int(minutes * 60)),
            lambda: parser_side(directories, atheris, int(minutes * 60)),
        )
        wrong = [one for one in results if one.findings]
        if is_kept and not wrong:
            keep(directories, fuzzer)
    for result in wrong:
        print(f"\n{result.name}:\n{result.said}")
    if any(findings.iterdir()):
        print(*("\ninput: " + str(path) for path in sorted(findings.iterdir())), sep="")
    else:
        findings.rmdir()
    print(
        f"{sum(one.executions for one in results)} executions, {len(wrong)} targets with findings"
    )
    return 1 if wrong else 0


def side_by_side(*sides: Callable[[], list[Result]]) -> list[Result]:
    results: list[Result] = []
    failed: list[BaseException] = []

    def run_side(side: Callable[[], list[Result]]) -> None:
        try:
            results.extend(side())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run_side, args=(side,)) for side in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return results


def main() -> int:
    it = argparse.ArgumentParser(prog="scripts/soak frames", description=__doc__)
    it.add_argument("--minutes", type=float, default=30, help="for the guest, and for the server")
    it.add_argument(
        "--keep", action="store_true", help="write what was found worth it to tests/fuzz/corpus"
    )
    given = it.parse_args()
    return soak(given.minutes, given.keep)


if __name__ == "__main__":
    sys.exit(main())
