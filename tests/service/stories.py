"""Runs many stories (`scripts/soak stories`): most on fake sandboxes, some on real ones, and some
on three nodes of a fleet.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from e2e.server import why_not
from e2e.story_real import FleetStories, RealStories
from service.story_fake import FakeDriver
from service.story_machine import ON_FAKES, ON_REAL, StoryMachine

ROUND = 100


@dataclass
class Report:
    """The stories that were run, and their failures."""

    kind: str
    seconds: float = 0.0
    heard: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = dict(self.heard)
        stories, steps = counts.pop("stories", 0), counts.pop("steps", 0)
        calls = ", ".join(f"{number} {end}" for end, number in sorted(counts.items()))
        return (
            f"{stories} stories, {steps} steps, on {self.kind} sandboxes in {self.seconds:.0f} s, "
            f"{len(self.failures)} failures; calls: {calls}"
        )


class Fake(StoryMachine):
    tell = FakeDriver
    heard: ClassVar[Counter[str]] = Counter()


def tell(report: Report, machine: type[StoryMachine], chosen: settings) -> None:
    """Runs stories in rounds, so that an early end still shows the progress."""
    began, left = time.monotonic(), chosen.max_examples
    while left > 0 and not report.failures:
        some = min(left, ROUND)
        try:
            run_state_machine_as_test(machine, settings=settings(chosen, max_examples=some))
        except Exception:
            report.failures.append(traceback.format_exc())
        report.seconds, report.heard = time.monotonic() - began, machine.heard
        left -= some
        print(report, flush=True)


def main() -> int:
    it = argparse.ArgumentParser(prog="scripts/soak stories", description=__doc__)
    it.add_argument("--fake", type=int, default=2000, help="stories on fake sandboxes")
    it.add_argument("--steps", type=int, default=50, help="steps of each of those")
    it.add_argument("--real", type=int, default=100, help="stories on real sandboxes")
    it.add_argument("--fleet", type=int, default=20, help="stories on three nodes of a fleet")
    given = it.parse_args()
    fake, real, fleet = Report("fake"), Report("real"), Report("a fleet's")
    steps = given.steps
    if given.fake:
        tell(fake, Fake, settings(ON_FAKES, max_examples=given.fake, stateful_step_count=steps))
    reason = why_not()
    if (given.real or given.fleet) and reason:
        print(f"none on real sandboxes: {reason}")
    elif given.real:
        tell(real, RealStories, settings(ON_REAL, max_examples=given.real))
    if given.fleet and not reason:
        tell(fleet, FleetStories, settings(ON_REAL, max_examples=given.fleet))
    failures = fake.failures + real.failures + fleet.failures
    print("\n".join(failures), end="")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
