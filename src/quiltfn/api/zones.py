"""Suggests a time zone for an unknown name, as a hint in errors."""

import contextlib
import difflib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from zoneinfo import TZPATH

from quiltfn.model.schedule import UnknownTimeZone


@contextlib.contextmanager
def hinted() -> Iterator[None]:
    """Add the nearest zone as a hint to an error about an unknown zone."""
    try:
        yield
    except UnknownTimeZone as error:
        meant = nearest((error.details or {})["received"])
        error.hint = f"is it {meant}?" if meant else None
        raise


def nearest(name: str) -> str | None:
    """The zone of a city, or the zone with a similar name."""
    known = _known()
    wanted = name.strip().replace(" ", "_").casefold()
    of_city = [one for one in known if one.rpartition("/")[2] == wanted]
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.8)
    return next((known[one] for one in [*of_city, *near]), None)


@functools.cache
def _known() -> Mapping[str, str]:
    """The zones in the machine's list of places, by lower-case name. Searching for all zones would
    read hundreds of files.
    """
    for directory in TZPATH:
        with contextlib.suppress(OSError, UnicodeError):
            lines = (Path(directory) / "zone.tab").read_text(encoding="utf-8").splitlines()
            rows = [line.split("\t") for line in lines if not line.startswith("#")]
            return {row[2].casefold(): row[2] for row in rows if len(row) > 2}
    return {}
