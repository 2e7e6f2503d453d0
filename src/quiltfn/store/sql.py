"""The hot statements, by name, as `queries.sql` has them.

They are strings for `exec_driver_sql`, which hands statement and values to the driver as they are:
going through `text()` costs 4 µs more a row, a third of what storing a record costs.
"""

import re
from importlib.resources import files

HEADING = re.compile(r"^-- (\w+): ", re.MULTILINE)


def parse(source: str) -> dict[str, str]:
    """Statements by name. Each begins with `-- name: what it does` and ends before the next."""
    starts = list(HEADING.finditer(source))
    ends = [following.start() for following in starts[1:]] + [len(source)]
    return {
        start[1]: source[start.start() : end].strip().removesuffix(";")
        for start, end in zip(starts, ends, strict=True)
    }


SQL = parse(files("quiltfn.store").joinpath("queries.sql").read_text(encoding="utf-8"))
