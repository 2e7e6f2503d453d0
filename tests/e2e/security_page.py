"""The page of the security tests, from its rows. Pure; scripts/generate.py writes it."""

from collections.abc import Iterable
from typing import Any

DATE = "2026-11-25"
DATE_V2 = "2026-11-25"
TOLERANCE_MS = 250.0  # of oracle.py; a test compares
VICTIM = (
    "On 2026-11-25, on a quiet machine, during the 21 minutes of `scripts/soak hostile`: 6,293 calls, 0 failures, "
    "p50 2.6 ms, p99 10.1 ms, with a baseline of 2.8 and so a bound of 12.8."
)
HEAD = """\
# Security tests

What hostile handlers try, which test shows that it comes to nothing, and what was measured, on {date}.
All of it is asked of a real `quiltfn serve`, from within sandboxes of crun. Where the column *runtime* says runsc, the last of
the tests named, those in `tests/e2e/test_gvisor.py`, ask the same of gVisor's sandboxes, on the first of these machines alone; figures are
crun's. A case without a test is *not run*; it is not passed. Made by `scripts/generate.py` from `tests/e2e/security_cases.py`.

The column *control groups* says where a case was run and passed. *v1 beside v2*: a host with kernel 6.18; every
figure here was measured on it. *v2*: on {date_v2}, a machine with pure cgroup v2 (Debian 13, kernel 6.12,
systemd) that `scripts/test-v2` made. It was an emulated QEMU machine without KVM, on which the bounds in seconds
were ten times what is written; that a case holds there is said, how quickly it does is not.

`scripts/test` runs all of it, in small numbers; `scripts/soak hostile` in large ones; `scripts/test-v2` in small
numbers on pure v2.

**The host is watched.** Before and after `tests/e2e/test_hostile_handlers.py`,
`tests/e2e/test_hostile_ends.py`, `tests/e2e/test_hostile_sharing.py` and `tests/e2e/test_hostile_reuse.py`, what a handler could have changed is compared, and must be the same: settings of the kernel, programs and password files by digest,
canary files, modules, mounts, keys, System V objects, files and listening sockets of sandboxes' users, core dumps,
complaints of the kernel; and at the end nothing of the server is left (processes, control groups, mounts,
network namespaces). The other modules have the last of these alone.

**A victim is watched.** Meanwhile another tenant's function is called five times a second. Every call must
succeed. Its 99th percentile should stay below the greater of 1.5 times its baseline and its baseline + 10 ms;
the test fails beyond that and {tolerance:.0f} ms more, since attackers, server, victim and whatever else
the machine does share two cores. {victim}

**A case that cannot fail proves nothing.** The last column names the tests in which a protection is taken
away (by an OCI runtime that edits `config.json` before crun sees it), and the case fails.

| case | a handler, or who makes it, | runtime | control groups | network | result | tests | fails without |
|---|---|---|---|---|---|---|---|
"""


def page(cases: Iterable[Any]) -> str:
    """docs/reference/security-tests.md."""
    return HEAD.format(date=DATE, date_v2=DATE_V2, tolerance=TOLERANCE_MS, victim=VICTIM) + "".join(
        map(line, cases)
    )


def line(case: Any) -> str:
    result = case.figure if case.tests else "**not run**"
    if case.not_run:
        result += f"; {case.not_run}" if case.tests else f": {case.not_run}"
    runtime = "crun, runsc" if case.runsc else "crun"
    cells = (
        case.id,
        case.tries,
        *((runtime, f"v1 beside v2; {on_v2(case)}", case.network) if case.tests else ("", "", "")),
        result,
        "<br>".join(f"`{one}`" for one in (*case.tests, *case.runsc)),
        "<br>".join(f"`{one}`" for one in case.controls),
    )
    return f"| {' | '.join(cells)} |\n"


def on_v2(case: Any) -> str:
    return f"v2 without {case.not_on_v2}" if case.not_on_v2 else "v2"
