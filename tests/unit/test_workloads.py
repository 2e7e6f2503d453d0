"""The table of `scripts/soak workloads`: twenty different workloads, each with known packages."""

import re

import pytest

from e2e.workloads import ALL, IMAGES, Workload
from promises import promise

pytestmark = promise("R39")

# A package must have an exact version, not a range, a tag or an address.
PINNED = re.compile(r"[a-z][a-z0-9-]*(==\d+(\.\d+)*|@\d+\.\d+\.\d+)")


def test_there_are_twenty_that_run_and_no_two_have_a_name_or_a_runtime() -> None:
    assert len([one for one in ALL if not one.cannot]) >= 20
    for names in ({one.name for one in ALL}, {one.slug for one in ALL}):
        assert len(names) == len(ALL)


@pytest.mark.parametrize("work", ALL, ids=lambda work: work.slug)
def test_packages_are_pinned_or_of_the_base_image(work: Workload) -> None:
    assert work.packages
    of_debian = IMAGES[work.image] if work.image else ()
    for package in work.packages:
        assert PINNED.fullmatch(package) or package in of_debian
    assert bool(work.cannot) == bool(work.why)


def test_every_base_image_has_a_workload() -> None:
    assert {one.image for one in ALL} - {""} == set(IMAGES)
