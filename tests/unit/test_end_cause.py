"""The API's end causes are those of the model, which the API's shapes may not import."""

import re
from typing import get_args

import msgspec

from quiltfn import wire
from quiltfn.model import end_cause
from quiltfn.wire.fields import fields_of

CAUSES = get_args(end_cause.EndCause)
FIELDS = fields_of(wire.EndCause)


def named(field: str) -> set[str]:
    """The values that the meaning of a field lists; before a colon it names causes."""
    return set(re.split(r", | or ", FIELDS[field].meaning.rpartition(": ")[2]))


def test_every_cause_and_who_ended_it_is_listed() -> None:
    """Clients take the lists for complete."""
    assert named("cause") == {cause.__struct_config__.tag for cause in CAUSES}
    assert named("by") == end_cause.BY.keys()


def test_the_api_has_the_fields_of_all_causes_and_no_others() -> None:
    """A field of the model alone would never be answered."""
    of_model = {field.encode_name for cause in CAUSES for field in msgspec.structs.fields(cause)}
    assert FIELDS.keys() == of_model | {"cause"}
