"""Numbers in schemas of several kinds."""

from typing import Annotated

from quiltfn.wire.constraints import Between
from quiltfn.wire.fields import about

VERSION_NUMBER_MAX = 2**31 - 1

VersionNumber = Annotated[
    int, about("the number of an existing version", 1, Between(1, VERSION_NUMBER_MAX))
]
UnixSeconds = Annotated[int, about("Unix seconds", 1760000000)]
