"""The page of states: every state has a description."""

import pytest

from quiltfn.model import function, instance, invocation


@pytest.mark.parametrize("machine", [function, instance, invocation])
def test_every_state_has_one_sentence(machine: object) -> None:
    means, following = vars(machine)["DESCRIPTIONS"], vars(machine)["NEXT"]
    assert list(means) == list(following), "in the order of the table"
    for state, sentence in means.items():
        assert sentence[0].isupper(), state
        assert sentence.endswith("."), state
