"""The hot statements by name. `queries.sql` has those that any database takes, `sqlite.sql` has
those that only SQLite does.

They are strings for `exec_driver_sql`, which passes statement and values to the driver unchanged.
SQLAlchemy's `text()` would cost 4 µs more for each row, a third of what storing a record costs.
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


SQL = {
    name: statement
    for source in ("queries.sql", "sqlite.sql")
    for name, statement in parse(files("quiltfn.store").joinpath(source).read_text("utf-8")).items()
}
