"""The API's end causes match those of the model, which the API's schemas must not import."""

import re
from typing import get_args

import msgspec

from quiltfn import wire
from quiltfn.model import end_cause
from quiltfn.wire.fields import fields_of

CAUSES = get_args(end_cause.EndCause)
FIELDS = fields_of(wire.EndCause)


def named(field: str) -> set[str]:
    """The values that the description of a field lists; words before a colon name causes."""
    return set(re.split(r", | or ", FIELDS[field].meaning.rpartition(": ")[2]))


def test_the_api_has_every_cause_with_its_fields_and_who_ended_it() -> None:
    """Clients rely on the lists being complete; a field that only the model has would never be
    returned.
    """
    assert named("cause") == {cause.__struct_config__.tag for cause in CAUSES}
    assert named("by") == end_cause.BY.keys()
    of_model = {field.encode_name for cause in CAUSES for field in msgspec.structs.fields(cause)}
    assert FIELDS.keys() == of_model | {"cause"}
