"""Which version an invocation through an alias runs on."""

import random

import pytest

from promises import promise
from quiltfn.model.alias import Alias, Share

pytestmark = promise("W21")

CALLS = 10_000
# Chi-square with one degree of freedom: a correct split exceeds this in one of a thousand samples.
CRITICAL = 10.83


def chi_square(weight: float, chosen: int) -> float:
    """The chi-square statistic if `chosen` of CALLS calls got the second version."""
    expected = weight * CALLS
    return (chosen - expected) ** 2 / expected + (chosen - expected) ** 2 / (CALLS - expected)


def chosen(weight: float, seed: int) -> int:
    alias = Alias(name="live", version=1, also=Share(version=2, weight=weight))
    dice = random.Random(seed)
    return [alias.choose(dice.random()) for _ in range(CALLS)].count(2)


@pytest.mark.parametrize("weight", [0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_the_split_is_within_what_chi_square_expects(weight: float) -> None:
    assert chi_square(weight, chosen(weight, seed=19)) < CRITICAL


def test_chi_square_finds_a_wrong_weight() -> None:
    assert chi_square(0.1, chosen(0.12, seed=19)) > CRITICAL
    assert chi_square(0.5, chosen(0.48, seed=19)) > CRITICAL


def test_the_bounds_of_the_dice() -> None:
    alias = Alias(name="live", version=1, also=Share(version=2, weight=0.25))
    assert [alias.choose(dice) for dice in (0.0, 0.2499, 0.25, 0.9999)] == [2, 2, 1, 1]
    assert Alias(name="live", version=1).choose(0.0) == 1


def test_its_fingerprint_is_another_one_after_a_change() -> None:
    first = Alias(name="live", version=1, revision=1)
    assert first.fingerprint() != Alias(name="live", version=1, revision=2).fingerprint()
    assert first.versions == (1,)
